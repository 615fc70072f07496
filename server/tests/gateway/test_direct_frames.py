"""``POST /v1/frames``: what is sent, what is answered, and what is stored, over real HTTP."""

from .direct import Sender, all_events, post, total
from .support import Running


async def test_events_and_points_are_stored_before_they_are_acknowledged(gateway: Running) -> None:
    sender = Sender()
    frames = [sender.hello(), sender.event(total=38.4), sender.points(b"orders:2|c\norders:3|c", 2), sender.exception()]
    status, answer = await post(gateway, frames)
    assert (status, answer) == (200, {"ack": 2, "n": 2})
    (stored,) = await all_events(gateway)
    assert (stored["name"], stored["service"], stored["fields"]) == ("order.placed", "web", {"total": 38.4})
    assert (await gateway.get("counts"))["exceptions"] == 1
    assert (await total(gateway, "orders"))["sum"] == 5


async def test_a_request_that_is_sent_again_changes_nothing(gateway: Running) -> None:
    sender = Sender()
    frames = [sender.hello(), sender.event(), sender.points(b"orders:2|c", 1)]
    assert (await post(gateway, frames, zipped=True)) == (200, {"ack": 1, "n": 1})
    assert (await post(gateway, frames)) == (200, {"ack": 1, "n": 1})
    assert len(await all_events(gateway)) == 1
    assert (await total(gateway, "orders"))["sum"] == 2
