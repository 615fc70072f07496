"""A small shop: what a web application looks like with Sendoff in it.

Sendoff's are `sendoff.init`, the middleware, and what the shop wants to count. Everything else is the shop.
`SHOP_SENDOFF=off` runs the same shop without it, so that the two can be compared.
"""

from __future__ import annotations

import os
import random
import time

from flask import Flask, Response, got_request_exception, jsonify, request

import sendoff
from sendoff.integrations.wsgi import SendoffMiddleware

PRICES = {"kettle": 4900, "teapot": 3250, "sencha": 1290, "assam": 990, "mug": 1150}
"""Price in cents by article."""


class PaymentTimeout(Exception):
    """The payment provider did not answer in time."""


def charge(cents: int, *, slow_provider: bool) -> None:
    """Take the money, or raise `PaymentTimeout` (from the `ConnectionError` below it)."""
    try:
        if slow_provider:
            raise ConnectionError("provider closed the connection after 3 bytes")
        time.sleep(random.uniform(0.001, 0.003))
    except ConnectionError as error:
        raise PaymentTimeout(f"no answer to a charge of {cents} cents") from error


def create_app() -> Flask:
    app = Flask(__name__)
    if os.environ.get("SHOP_SENDOFF") != "off":
        sendoff.init(service="shop", env="demo", release=os.environ.get("SHOP_RELEASE", "1"))
        app.wsgi_app = SendoffMiddleware(app.wsgi_app)  # type: ignore[method-assign]
        got_request_exception.connect(lambda _, exception: sendoff.capture_exception(exception), app, weak=False)

    @app.get("/")
    def catalogue() -> Response:
        with sendoff.timer("shop.catalogue"):
            return jsonify(sorted(PRICES))

    @app.get("/products/<article>")
    def product(article: str) -> Response:
        sendoff.increment("shop.product_views", article=article if article in PRICES else "unknown")
        return jsonify(article=article, cents=PRICES[article])  # KeyError for what the shop does not sell

    @app.post("/orders")
    def order() -> tuple[Response, int]:
        wanted = request.get_json()
        cents = PRICES[wanted["article"]] * wanted["quantity"]
        sendoff.set_user(id=wanted["customer"])
        charge(cents, slow_provider=wanted.get("slow_provider", False))
        worker = str(os.getpid())
        sendoff.increment("shop.orders", country=wanted["country"], worker=worker)
        sendoff.increment("shop.revenue_cents", cents, worker=worker)
        sendoff.distribution("shop.order_cents", cents)
        sendoff.unique("shop.customers", wanted["customer"])
        sendoff.event("order.placed", ref=wanted["ref"], article=wanted["article"], cents=cents)
        return jsonify(ref=wanted["ref"], cents=cents, worker=worker), 201

    return app
