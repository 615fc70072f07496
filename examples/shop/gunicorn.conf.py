"""gunicorn's settings for the shop: several workers forked from one loaded application, as in production."""

import os

wsgi_app = "app:create_app()"
bind = os.environ.get("SHOP_LISTEN", "127.0.0.1:8000")
workers = int(os.environ.get("SHOP_WORKERS", "3"))
preload_app = True
graceful_timeout = 10
accesslog = None
loglevel = "critical"  # the shop raises on purpose; Sendoff shows what, the console need not
