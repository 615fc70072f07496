"""`make demo`: a shop under traffic, an outage of the gateway, a deploy with one worker killed, and then the accounts.

The story in order: the shop without Sendoff; with it; with the gateway stopped; with the gateway back; a deploy in
which one worker is killed by SIGKILL. Beside it the official `statsd` and `datadog` clients send to the same agent all
the time. At the end what the senders counted is compared with what the gateway's API answers (`accounts.py`). Exit
status 0 only if all of it agrees.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from demo import accounts, traffic
from demo.others import OtherClients
from demo.parts import NotReady, Part, Stage, get_json
from demo.tamper import WAYS, tamper

PROJECT = "demo"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each phase")
    parser.add_argument("--rate", type=float, default=60.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=7, help="seed of the customers' behaviour")
    parser.add_argument("--tamper", choices=list(WAYS), help="falsify the store at the end: the accounts must notice")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    parser.add_argument("--stay", action="store_true", default=sys.stdin.isatty() and sys.stdout.isatty())
    options = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="sendoff-demo-"))
    running: list[Part] = []
    try:
        return play(Stage(folder), running, options)
    except NotReady as error:
        print(f"\nThe demo could not go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for part in reversed(running):
            part.stop()
        if options.keep:
            print(f"Data and logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def play(stage: Stage, running: list[Part], options: argparse.Namespace) -> int:
    say(f"Starting a gateway at {stage.gateway_url} and an agent beside the shop")
    stage.write_config(key=None)
    # Each exception is looked for by its own reference, so none may be folded into the count of another.
    stage.write_config(key=stage.make_key(PROJECT), storm=0)
    gateway, agent = stage.gateway(), stage.agent()
    running += [gateway, agent]
    gateway.start(f"{stage.gateway_url}/readyz")
    agent.start(f"{stage.agent_url}/readyz")

    book = traffic.Book()
    phases: dict[str, traffic.Latency] = {}

    def customers(title: str, into: traffic.Book = book, seconds: float = options.seconds) -> None:
        say(f"{title}: {options.rate:.0f} requests a second for {seconds:.0f} s")
        phases[title] = traffic.run(
            stage.shop_port,
            into,
            seconds=seconds,
            per_second=options.rate,
            seed=options.seed + len(phases) * 100,
            progress=(lambda left: show(stage, into, left)) if sys.stdout.isatty() else None,
        )

    shop = stage.shop(release="1", sendoff=False)
    running.append(shop)
    shop.start(f"http://127.0.0.1:{stage.shop_port}/")
    customers("without Sendoff", into=traffic.Book())
    shop.stop()

    others = OtherClients(stage.statsd_port)
    others.start()
    try:
        shop = stage.shop(release="1", sendoff=True)
        running.append(shop)
        shop.start(f"http://127.0.0.1:{stage.shop_port}/")
        customers("with Sendoff, gateway up")
        gateway.stop()
        customers("with Sendoff, gateway stopped")
        gateway.start(f"{stage.gateway_url}/readyz")
        customers("with Sendoff, gateway back")
        killed = deploy(stage, shop, running, customers)
    finally:
        others.stop()
    running[-1].stop()  # the second shop: its workers say goodbye

    def falsify() -> None:
        if options.tamper:
            tamper(stage, options.tamper)

    say("Waiting until the agent has delivered everything")
    report = accounts.settle(stage, PROJECT, book, others.sent, killed, before_looking=falsify)
    print(accounts.render(report, phases, book))
    page = f"{stage.gateway_url}/{PROJECT}/"
    if options.stay and report.right:
        say(f"Look at {page} and at the agent's {stage.agent_url}/ — Ctrl-C ends the demo")
        threading.Event().wait()
    else:
        say(f"The pages were at {page} and {stage.agent_url}/ (on a terminal they stay up until Ctrl-C)")
    return 0 if report.right else 1


def deploy(stage: Stage, old: Part, running: list[Part], customers: object) -> str:
    """Kill one worker under traffic, then replace the whole shop by its next release; gives the killed one's id."""
    killed: list[int] = []

    def kill_soon() -> None:
        time.sleep(1.0)
        killed.append(old.kill_one_worker())

    killer = threading.Thread(target=kill_soon)
    killer.start()
    customers("with Sendoff, one worker killed")  # type: ignore[operator]
    killer.join()
    say(f"Worker {killed[0]} was killed; now the deploy: release 1 stops, release 2 starts")
    old.stop()
    shop = stage.shop(release="2", sendoff=True)
    running.append(shop)
    shop.start(f"http://127.0.0.1:{stage.shop_port}/")
    customers("with Sendoff, after the deploy")  # type: ignore[operator]
    return str(killed[0])


def show(stage: Stage, book: traffic.Book, left: float) -> None:
    """One line about how it goes, written over and over while customers are busy."""
    books = get_json(f"{stage.agent_url}/status.json")["books"]
    held = sum(row["pending"] for row in books["events"])
    counts = f"{len(book.orders)} orders, {len(book.exceptions)} exceptions; the agent holds {held} events"
    print(f"\r  {left:3.0f} s left; {counts}   ", end="" if left > 0 else "\n", flush=True)


def say(text: str) -> None:
    print(f"· {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
