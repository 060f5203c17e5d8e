# Copyright (C) the ngx_umami_module authors

"""One bounded HTTP request: an answer, or a Problem of one line.

Nothing is followed and nothing is repeated: a beacon is not sent twice, and a
password goes nowhere but where it was told to go.
"""

import dataclasses
import http.client
import re
import socket
import ssl
import threading
import urllib.parse

from gateway.bundle import Problem

SECONDS = 10
MOST = 4 * 1024 * 1024


class Unreachable(Problem):
    """There is nobody: the connection was refused, or not answered."""


@dataclasses.dataclass
class Answer:
    status: int
    headers: list       # of (name, value), as they came
    body: bytes

    def header(self, name):
        """The value, several of them joined, or None."""
        values = [v for k, v in self.headers if k.lower() == name.lower()]
        return ', '.join(values) if values else None

    def words(self):
        """What a person is told of an answer that is not a good one."""
        text = self.body.decode('utf-8', 'replace')
        if 'html' in (self.header('Content-Type') or ''):
            return 'a page of HTML'
        return re.sub(r'[\x00-\x1f\x7f-\x9f\s]+', ' ', text).strip()[:160]


def split(url):
    """The parts of an http or https URL that names a host and no user."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Problem(f'{error}, write https://host', url) from None

    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise Problem('is not a URL, write https://host', url)
    if '@' in parts.netloc:
        raise Problem('a URL with a password in it is not taken', 'URL')

    return parts, port or (443 if parts.scheme == 'https' else 80)


def request(method, url, headers=None, body=None, seconds=SECONDS, tls=None):
    """Ends in "seconds", whatever the server does."""
    parts, port = split(url)
    late = threading.Event()
    sockets = []

    if parts.scheme == 'https':
        connection = http.client.HTTPSConnection(
            parts.hostname, port, timeout=seconds,
            context=tls or ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(parts.hostname, port,
                                                timeout=seconds)

    def cut():
        late.set()
        for sock in sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    # A time-out of the socket alone would begin again with each byte.

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()

    try:
        connect(connection, url, seconds)
        sockets.append(connection.sock)

        target = parts.path or '/'
        connection.request(method,
                           target + (f'?{parts.query}' if parts.query else ''),
                           body=body, headers=headers or {})
        response = connection.getresponse()
        text = response.read(MOST + 1)

        if late.is_set():
            raise TimeoutError
        if response.length and len(text) <= MOST:
            raise http.client.IncompleteRead(text)
        if len(text) > MOST:
            raise Problem('answers with more than 4 MB', url)

        return Answer(response.status, response.getheaders(), text)

    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Problem(reason(error, late.is_set(), seconds), url) from None

    finally:
        timer.cancel()
        connection.close()


def connect(connection, url, seconds):
    try:
        connection.connect()
    except socket.gaierror:
        raise
    except ssl.SSLError:
        raise
    except OSError as error:
        raise Unreachable(reason(error, False, seconds), url) from None


def reason(error, late, seconds):
    if late or isinstance(error, TimeoutError):
        return f'gave no whole answer in {seconds:g} s'
    if isinstance(error, ssl.SSLCertVerificationError):
        return f'its certificate is not accepted: {error.verify_message}'
    if isinstance(error, ssl.SSLError):
        return f'TLS failed: {error.reason or error}'
    if isinstance(error, socket.gaierror):
        return f'its name is not known: {error.strerror}'
    if isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError,
                          http.client.IncompleteRead)):
        return 'closed the connection before its answer was whole'
    if isinstance(error, http.client.HTTPException):
        return 'answers with something that is not HTTP'
    if isinstance(error, OSError):
        return f'cannot be reached: {error.strerror or error}'
    return f'cannot be asked: {error}'
