"""httpx's network: connects to checked addresses only, within a deadline, through a proxy if one is set.

The guard is where sockets are opened: whatever a URL or a redirect says, a connection goes only to a checked
address, while Host, SNI and the connection pool keep the real name.

A proxy resolves names and opens connections itself. So the host is first checked here, and the proxy is asked
for a target that cannot become another host:

- for the name, by a tunnel, if TLS follows and certificates are checked: only the owner of the name can
  answer;
- else for the address that was checked, by a tunnel;
- for the name as it is written, unchecked, only if CORESET_ALLOWED_HOSTS has it. Plain http then needs no
  tunnel; many proxies allow tunnels to port 443 only.
"""

import ssl
import threading
import time
from collections.abc import Iterable, Iterator

import h11
import httpcore
import httpx

from coreset_backend.errors import ConfigError, ImageError
from coreset_backend.network.addresses import AddressGuard, HostUnknown
from coreset_backend.network.outbound import Proxies, Proxy

_FIRST_BYTES = 65_536  # of a proxy's answer
_PASSING = (500, 502, 503, 504)


class Deadline(threading.local):
    """When the request of this thread must be over, by ``time.monotonic``."""

    at = float("inf")

    def left(self, timeout: float | None) -> float:
        """``timeout``, limited to the remaining time; raises ``httpcore.ReadTimeout`` if there is none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the whole request took too long")
        return left if timeout is None else min(timeout, left)


class _TimedStream(httpcore.NetworkStream):
    """A connection on which every step obeys the deadline, also slow headers."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class CheckedNetwork(httpcore.NetworkBackend):
    """Opens connections for ``scheme``, only to addresses that the guard has checked."""

    def __init__(
        self, guard: AddressGuard, deadline: Deadline, proxies: Proxies, scheme: str, verify: ssl.SSLContext
    ) -> None:
        self._guard, self._deadline, self._proxies = guard, deadline, proxies
        self._scheme, self._verify = scheme, verify
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        proxy = self._proxy_to(host, port)
        if proxy is None:
            return self._connected(self._guard.checked_addresses(host, port), port, timeout)
        target = self._asked_of_a_proxy(host, port)
        stream = self._connected_to(proxy, timeout)
        try:
            if not self._forwards(host, port):
                _open_tunnel(stream, proxy, target, port)
        except BaseException:
            stream.close()
            raise
        return stream

    def forwarding_proxy(self, host: str, port: int) -> Proxy | None:
        """The proxy to which the whole request for ``host`` is sent by name, without a tunnel; or None."""
        return self._proxy_to(host, port) if self._forwards(host, port) else None

    def _forwards(self, host: str, port: int) -> bool:
        return self._scheme == "http" and self._guard.is_allowed(host, port)

    def _proxy_to(self, host: str, port: int) -> Proxy | None:
        try:
            return self._proxies.leading_to(self._scheme, host, port)
        except ConfigError as error:
            raise ImageError(str(error)) from error

    def _asked_of_a_proxy(self, host: str, port: int) -> str:
        if self._guard.is_allowed(host, port):
            return host
        try:
            address, *_ = self._guard.checked_addresses(host, port)
        except HostUnknown as error:
            raise ImageError(
                f"the host {host} cannot be resolved here, so it cannot be checked before the proxy connects "
                f"to it; add {host}:{port} to CORESET_ALLOWED_HOSTS if images may be read from it"
            ) from error
        proves_its_name = self._scheme == "https" and self._verify.verify_mode == ssl.CERT_REQUIRED
        return host if proves_its_name else address

    def _connected(
        self, addresses: Iterable[str], port: int, timeout: float | None
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address answers")
        for address in addresses:
            left = self._deadline.left(timeout)
            try:
                return _TimedStream(self._network.connect_tcp(address, port, left), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _connected_to(self, proxy: Proxy, timeout: float | None) -> httpcore.NetworkStream:
        try:
            stream = self._connected([proxy.host], proxy.port, timeout)
            return stream.start_tls(self._verify, proxy.host, timeout) if proxy.scheme == "https" else stream
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            why = "does not accept connections" if proxy.scheme == "http" else f"cannot be used ({error})"
            raise httpcore.ProxyError(f"the proxy {proxy} {why}") from error


def _open_tunnel(stream: httpcore.NetworkStream, proxy: Proxy, host: str, port: int) -> None:
    """Ask the proxy to connect ``stream`` to ``host``; raises ``ImageError`` or ``ProxyError``."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        status = _answer_to_connect(stream, place, proxy.authorization)
    except (h11.ProtocolError, httpcore.NetworkError) as error:
        raise httpcore.ProxyError(
            f"the proxy {proxy} closed the connection or does not speak HTTP"
        ) from error
    if 200 <= status < 300:
        return
    refused = f"the proxy {proxy} answered {status} to a tunnel to {place}"
    raise httpcore.ProxyError(refused) if status in _PASSING else ImageError(f"{refused}: {_advice(status)}")


def _answer_to_connect(stream: httpcore.NetworkStream, place: str, authorization: str | None) -> int:
    """The status with which a proxy answers a CONNECT to ``place``."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_FIRST_BYTES)
    headers = [("Host", place), *([("Proxy-Authorization", authorization)] if authorization else [])]
    stream.write(client.send(h11.Request(method="CONNECT", target=place, headers=headers)) or b"")
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(stream.read(_FIRST_BYTES))
        elif isinstance(event, h11.Response):
            return event.status_code
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the proxy closed the connection")


def _advice(status: int) -> str:
    if status == 407:
        return "it requires a login; write user and password into its address, before an @"
    return (
        "it does not allow it. Name the host in NO_PROXY if it can be reached directly, or in "
        "CORESET_ALLOWED_HOSTS to request it from the proxy by name"
    )


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class CheckedTransport(httpx.BaseTransport):
    """httpx over this network backend; httpx's own transport has no public way to replace it."""

    def __init__(
        self,
        guard: AddressGuard,
        deadline: Deadline,
        proxies: Proxies,
        verify: ssl.SSLContext,
        connections: int,
    ) -> None:
        self._networks = {
            scheme: CheckedNetwork(guard, deadline, proxies, scheme, verify) for scheme in ("http", "https")
        }
        self._pools = {
            scheme: httpcore.ConnectionPool(
                ssl_context=verify,
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=30.0,
                network_backend=network,
            )
            for scheme, network in self._networks.items()
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url, path, headers = request.url, request.url.raw_path, request.headers.raw
        proxy = self._networks[url.scheme].forwarding_proxy(url.raw_host.decode("ascii"), url.port or 80)
        if proxy:
            path = b"http://" + url.netloc + path
            login = proxy.authorization or ""
            headers = [*headers, *([(b"Proxy-Authorization", login.encode())] if login else [])]
        response = self._pools[url.scheme].handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=path),
                headers=headers,
                content=request.read(),
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
