"""What an event or an exception says: values as JSON, chains of exceptions, secrets hidden, the payload as bytes."""
