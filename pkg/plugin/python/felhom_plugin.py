# Copyright The felhom-agent authors
# SPDX-License-Identifier: Apache-2.0
"""The kit for plugins of felhom-agent in Python: what plugin.Serve is in Go.

It speaks the whole of felhom.plugin.v1 (PROTOCOL.md): handshake, TLS with both
sides authenticated, configuration, health, shutdown, and the end of a process
whose agent is gone. It needs Debian's python3-grpcio, python3-protobuf and
python3-cryptography, or the packages grpcio, protobuf and cryptography of the
same meaning, and the file felhom_plugin_pb.py beside it.

A plugin is a class with `name`, `version` and one method per call:

    class Inventory:
        name, version = "inventory", "1.0"

        def configure(self, config, secrets):     # optional; dicts
            ...
        def watch(self, ended):                   # a provider: a generator
            verdict = yield Snapshot(revision, {"guests.toml": b"..."})

    serve(provider=Inventory())

A provider's `watch` yields a Snapshot at once and after each change, and gets
None or the core's reason for rejecting it. `ended` is a threading.Event: wait
on it instead of sleeping, and return when it is set.

An executor has `actions` and the methods `apply(action, handle)` and
`probe(query)`. `apply` returns an Outcome, or is a generator that yields
Progress and returns an Outcome; once a Progress with a handle was yielded, the
handle is on the agent's disk. `probe` returns a Verdict.

Raise Invalid, Unsupported, NotSent, Unavailable or Denied where they are true;
any other exception means that the outcome is not known.
"""

import base64
import datetime
import inspect
import json
import os
import sys
import threading
import time
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import felhom_plugin_pb as pb

PROTOCOL_VERSION = 1
COOKIE_KEY = "FELHOM_PLUGIN"
COOKIE_VALUE = "c2f5a1f0e6c94b6f8f4a0f6f1d0c6a0f5d3b7a4e"
MAX_MESSAGE = 16 << 20
MAX_TEXT = 8 << 10
FIRST_CONNECTION = 60.0  # seconds without a first connection
LOST_CONNECTION = 3.0  # seconds after the last one was lost

Action = pb.message("Action")


class PluginError(Exception):
    """An error whose kind the agent knows."""

    code, kind = grpc.StatusCode.UNKNOWN, ""


class Invalid(PluginError):
    """The request or the configuration makes no sense; nothing was sent."""

    code, kind = grpc.StatusCode.INVALID_ARGUMENT, "invalid"


class Unsupported(PluginError):
    """This plugin does not do that; nothing was sent."""

    code, kind = grpc.StatusCode.UNIMPLEMENTED, "unsupported"


class NotSent(PluginError):
    """The action was certainly not sent."""

    code, kind = grpc.StatusCode.FAILED_PRECONDITION, "not-sent"


class Unavailable(PluginError):
    """This cannot be answered now; try again."""

    code, kind = grpc.StatusCode.ABORTED, "unavailable"


class Denied(PluginError):
    """The other side denied it."""

    code, kind = grpc.StatusCode.PERMISSION_DENIED, "denied"


class Snapshot:
    """A provider's whole desired state: {file name: bytes}, or why it cannot be read."""

    def __init__(self, revision="", files=None, error="", signatures=None):
        self.revision, self.files, self.error = revision, files or {}, error
        self.signatures = signatures or {}

    def _message(self):
        m = pb.message("Snapshot")(revision=self.revision, error=text(self.error))
        for name in sorted(self.files):
            m.files.add(name=name, data=self.files[name], signatures=self.signatures.get(name, []))
        return m


class Progress:
    """What an executor reports while it works; a handle at most once."""

    def __init__(self, handle="", text=""):
        self.handle, self.text = handle, text


class Outcome:
    """The end of an action. status: done, retry, refused, failed or unknown."""

    def __init__(self, status, message="", retry_after=0.0, reason=""):
        self.status, self.message, self.retry_after, self.reason = status, message, retry_after, reason

    def _message(self):
        m = pb.message("Outcome")(status=self.status, message=text(self.message), reason=self.reason)
        if self.retry_after:
            m.retry_after.FromTimedelta(datetime.timedelta(seconds=self.retry_after))
        return m


class Verdict:
    """A probe's answer. finding: found, settled, not-sent or unclear."""

    def __init__(self, finding, handle="", outcome=None, message=""):
        self.finding, self.handle, self.outcome, self.message = finding, handle, outcome, message


def text(s):
    """Bounds a text for the wire."""
    return str(s).encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore")


def log(level, message, **fields):
    """Writes one line that the agent logs with its level and fields."""
    line = {"@level": level, "@message": str(message), **{k: str(v) for k, v in fields.items()}}
    print(json.dumps(line), file=sys.stderr, flush=True)


def serve(executor=None, provider=None):
    """The whole of a plugin's main. It returns when the agent ends it or is gone."""
    parts = {"executor": executor, "provider": provider}
    parts = {kind: p for kind, p in parts.items() if p is not None}
    if os.environ.get(COOKIE_KEY) != COOKIE_VALUE:
        sys.exit(f"{os.path.basename(sys.argv[0])} is a plugin of felhom-agent (protocol felhom.plugin.v1): the agent starts it")
    handshake = protect_stdout()
    host = os.environ.get("PLUGIN_CLIENT_CERT", "")
    if not host:
        sys.exit("the agent gave no certificate (PLUGIN_CLIENT_CERT): this plugin speaks only with both sides authenticated")
    key, cert, der = certificate()
    ended, met = threading.Event(), threading.Event()
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32),
        options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)],
    )
    server.add_generic_rpc_handlers(services(parts, ended, met))
    path = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], "plugin.sock")
    creds = grpc.ssl_server_credentials([(key, cert)], host.encode(), require_client_auth=True)
    if not server.add_secure_port("unix:" + path, creds):
        sys.exit("cannot listen on " + path)
    server.start()
    line = f"1|{PROTOCOL_VERSION}|unix|{path}|grpc|{base64.b64encode(der).decode().rstrip('=')}\n"
    os.write(handshake, line.encode())
    threading.Thread(target=watch_connections, args=(path, ended, met), daemon=True).start()
    ended.wait()
    server.stop(0.5).wait(1)
    os._exit(0)  # a call that does not end must not keep the process


def protect_stdout():
    """Keeps the host's end of standard output for the handshake alone.

    What the program and its libraries print from here on goes to the log.
    """
    sys.stdout.flush()
    handshake = os.dup(1)  # not inherited by children
    os.dup2(2, 1)
    return handshake


def certificate():
    """A key and a certificate for this one process: PEM, PEM, DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    usage = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_encipherment", "crl_sign", "encipher_only", "decipher_only"), False
    )
    now = datetime.datetime.utcnow()
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=10000))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_agreement=True, key_cert_sign=True, **usage), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, cert.public_bytes(serialization.Encoding.PEM), cert.public_bytes(serialization.Encoding.DER)


def watch_connections(path, ended, met):
    """Ends a process that nobody is connected to; met says that the agent was.

    The kernel closes the connections of an agent that was killed, and that is
    all a plugin gets to know of it. gRPC does not tell; the kernel's list does.
    """
    alone = time.monotonic()
    while not ended.wait(0.5):
        if connections(path) > 0:
            alone = time.monotonic()
        elif time.monotonic() - alone > (LOST_CONNECTION if met.is_set() else FIRST_CONNECTION):
            ended.set()


def connections(path):
    """How many are connected to the socket, by /proc/net/unix."""
    want, n = path.encode(), 0
    with open("/proc/net/unix", "rb") as f:
        for line in f:
            field = line.split()
            if len(field) == 8 and field[7] == want and field[5] == b"03":
                n += 1
    return n


def services(parts, ended, met):
    """The generic handlers of everything that is served."""

    def shutdown(_request, _context):
        ended.set()
        return b""

    raw = lambda f: grpc.unary_unary_rpc_method_handler(f)
    all_of = [
        grpc.method_handlers_generic_handler(pb.PACKAGE + ".Plugin", {"Configure": Configurer(parts, met).handler()}),
        # SERVING, as bytes: the messages of gRPC's health service are in no package of Debian's.
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": raw(lambda _r, _c: b"\x08\x01")}),
        grpc.method_handlers_generic_handler("plugin.GRPCController", {"Shutdown": raw(shutdown)}),
    ]
    if "executor" in parts:
        all_of.append(grpc.method_handlers_generic_handler(pb.PACKAGE + ".Executor", executor_methods(parts["executor"])))
    if "provider" in parts:
        all_of.append(grpc.method_handlers_generic_handler(pb.PACKAGE + ".Provider", provider_methods(parts["provider"])))
    return tuple(all_of)


def unary(request, f):
    """A handler of one request and one answer."""

    def handle(req, context):
        return guarded(context, lambda: f(req))

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=pb.message(request).FromString, response_serializer=lambda m: m.SerializeToString()
    )


def stream(request, f):
    """A handler of a stream of requests and a stream of answers."""

    def handle(requests, context):
        over = threading.Event()
        if not context.add_callback(over.set):
            return
        yield from guarded_stream(context, f(requests, over))

    return grpc.stream_stream_rpc_method_handler(
        handle, request_deserializer=pb.message(request).FromString, response_serializer=lambda m: m.SerializeToString()
    )


def guarded(context, f):
    """Turns what f raises into a status."""
    try:
        return f()
    except PluginError as e:
        context.abort(e.code, text(e))
    except Exception as e:  # the outcome is not known
        log("error", "an error without a kind", error=repr(e))
        context.abort(grpc.StatusCode.UNKNOWN, text(e))


def guarded_stream(context, answers):
    """guarded, for a generator of answers."""
    while True:
        try:
            answer = next(answers)
        except StopIteration:
            return
        except PluginError as e:
            context.abort(e.code, text(e))
        except grpc.RpcError:
            return  # the host has gone away
        except Exception as e:  # the outcome is not known
            if not context.is_active():
                return
            log("error", "an error without a kind", error=repr(e))
            context.abort(grpc.StatusCode.UNKNOWN, text(e))
        yield answer


class Configurer:
    """Serves Plugin.Configure, once."""

    def __init__(self, parts, met):
        self.parts, self.met, self.done, self.lock = parts, met, False, threading.Lock()

    def handler(self):
        return unary("ConfigureRequest", self.configure)

    def configure(self, request):
        self.met.set()
        with self.lock:
            if self.done:
                raise Invalid("already configured")
            self.done = True
        try:
            config = json.loads(request.config_json or b"{}")
        except ValueError as e:
            raise Invalid(f"config: {e}") from None
        secrets = {name: value.decode("utf-8", "surrogateescape") for name, value in request.secrets.items()}
        takers = [p for p in self.parts.values() if hasattr(p, "configure")]
        if not takers and (config or secrets):
            raise Invalid("this plugin takes no configuration")
        for p in takers:
            p.configure(config, secrets)
        return pb.message("ConfigureResponse")(kinds=list(self.parts))


def only(config, *known):
    """Raises Invalid for a key of a configuration that is not known."""
    for key in config:
        if key not in known:
            raise Invalid(f"config: key {key!r} is not known; known are {', '.join(known)}")


def describer(part):
    answer = pb.message("DescribeResponse")
    return unary("DescribeRequest", lambda _r: answer(name=part.name, version=part.version, actions=getattr(part, "actions", [])))


def provider_methods(part):
    def watch(requests, over):
        next(requests)  # the start
        snapshots = part.watch(over)
        snapshot = next(snapshots, None)
        while snapshot is not None and not over.is_set():
            yield snapshot._message()
            verdict = next(requests, None)
            if verdict is None:
                return
            why = verdict.verdict.failure.message if verdict.verdict.HasField("failure") else None
            try:
                snapshot = snapshots.send(why)
            except StopIteration:
                return

    def report(request):
        if not hasattr(part, "report"):
            raise Unsupported("this provider carries no reports")
        part.report(json.loads(request.json or b"{}"))
        return pb.message("ReportResponse")()

    return {"Describe": describer(part), "Watch": stream("ProviderWatchIn", watch), "Report": unary("ReportRequest", report)}


def executor_methods(part):
    out = pb.message("ApplyOut")

    def apply(requests, _over):
        request = next(requests).request
        check(request.action)
        steps = part.apply(request.action, request.handle)
        if not inspect.isgenerator(steps):
            yield out(outcome=steps._message())
            return
        ack = None
        while True:
            try:
                progress = steps.send(ack)
            except StopIteration as end:
                yield out(outcome=end.value._message())
                return
            m = out()
            m.progress.handle, m.progress.text = progress.handle, text(progress.text)
            yield m
            answer = next(requests, None)
            if answer is None or answer.ack.HasField("failure"):
                steps.close()
                raise PluginError("the agent could not take the progress")
            ack = True

    def probe(request):
        check(request.action)
        v = part.probe(request)
        m = pb.message("ProbeResponse")(finding=v.finding, handle=v.handle, message=text(v.message))
        if v.outcome is not None:
            m.outcome.CopyFrom(v.outcome._message())
        return m

    def check(action):
        if action.kind not in part.actions:
            raise Unsupported(f"action {action.kind!r}")
        if not action.op_id or action.attempt < 1:
            raise Invalid("an action without an op id or attempt")

    return {"Describe": describer(part), "Apply": stream("ApplyIn", apply), "Probe": unary("ProbeRequest", probe)}
