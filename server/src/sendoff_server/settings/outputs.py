"""The settings of an output: where it sends, with which key, and what is never sent unencrypted."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from sendoff_server.settings import units
from sendoff_server.settings.kinds import Duration, Kind, Link, Section, Switch, whole_seconds, within
from sendoff_server.settings.units import split_listen, wrong

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "sendoff-schema",
        "transfer-encoding",
    }
)


def _headers(value: object) -> object:
    remedy = 'write a table such as { "X-Team" = "shop" }'
    if not isinstance(value, dict):
        raise wrong("is not a table of headers", remedy)
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", str(name)):
            raise wrong(f"has the header {name!r}, whose name has letters that HTTP does not allow", remedy)
        if name.lower() in RESERVED_HEADERS:
            raise wrong(f"sets {name}, which Sendoff sets itself", "leave it out")
        if not isinstance(text, str) or not re.fullmatch(r"[\t -~]{0,4000}", text):
            raise wrong(f"has a value of {name} that is not plain ASCII text", remedy)
    return value


def _key(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not re.fullmatch(r"[!-~]{1,500}", text):
        raise wrong("is not a key (visible ASCII, no spaces)", "copy what `sendoff gateway keys create` printed")
    return value


class OutputSettings(Section):
    """One destination. Each has its own progress, retries and dead letters; any number can be set up."""

    type: Annotated[Literal["gateway", "http"], Kind("gateway or http")] = Field(
        default="gateway",
        description="gateway: a Sendoff gateway. http: any service that takes the same lines, one batch per request",
    )
    url: Link = Field(
        examples=["https://gateway.example.com"],
        description="gateway: its base address, to which /v1/batches is added, or zmq+curve://HOST:PORT?server=KEY, as "
        "`sendoff gateway keys create PROJECT --curve` prints it. http: the address to post to",
    )
    key: Annotated[SecretStr | None, BeforeValidator(lambda v: None if v is None else _key(v)), Kind("secret")] = Field(
        default=None,
        examples=["sk_made_by_sendoff_gateway_keys_create"],
        description="Sent as `Authorization: Bearer KEY`. A gateway needs one",
    )
    allow_plaintext: Switch = Field(
        default=False,
        description="Allow a key to be sent unencrypted (http://) to another machine, where it can be read on the way",
    )
    interval: Annotated[Duration, AfterValidator(whole_seconds), within(1, 3600, units.say_duration)] = Field(
        default=10.0, description="Length of the metric windows that this output gets, in whole seconds"
    )
    compression: Annotated[Literal["zstd", "gzip", "identity"], Kind("zstd, gzip or identity")] = Field(
        default="zstd", description="How bodies are compressed. http services that know no zstd want gzip or identity"
    )
    headers: Annotated[dict[str, str], BeforeValidator(_headers), Kind("table", dict)] = Field(
        default_factory=dict, description="More headers for each request. Their values are treated as secrets"
    )
    timeout: Annotated[Duration, within(1, 300, units.say_duration)] = Field(
        default=30.0,
        description="How long a request may make no progress (64 KiB), and how long its answer may take once it is "
        "out; then the same is sent again under the same id",
    )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.url.lower().startswith("zmq+curve://"):
            self._check_zmq()
        secret = self.key is not None or any(name.lower() in SECRET_HEADERS for name in self.headers)
        if self.type == "gateway" and self.key is None:
            raise wrong(
                "has no key, and a gateway asks for one", "set `key` to what `sendoff gateway keys create` printed"
            )
        if self.key is not None and any(name.lower() == "authorization" for name in self.headers):
            raise wrong("has both a key and an Authorization header", "keep one of them")
        scheme, _, rest = self.url.partition("://")
        if secret and scheme.lower() == "http" and not self.allow_plaintext and not _same_machine(rest):
            raise wrong(
                "would send its key unencrypted to another machine",
                "use an https:// address, or set allow_plaintext = true if the network in between is your own",
            )
        return self

    def _check_zmq(self) -> None:
        if self.type != "gateway":
            raise wrong("has the type http and the url of a gateway's ZeroMQ port", 'set type to "gateway"')
        if self.headers:
            raise wrong("sets headers, which ZeroMQ has none of", "leave headers out")
        if self.key is not None and not re.fullmatch(units.CURVE_KEY, self.key.get_secret_value()):
            raise wrong(
                "has a key that is no CURVE key",
                "copy the key that `sendoff gateway keys create PROJECT --curve` printed",
            )


def _same_machine(rest: str) -> bool:
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    try:
        return split_listen(authority if re.search(r":[0-9]+$", authority) else authority + ":80").loopback
    except ValueError:
        return False
