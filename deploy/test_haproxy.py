"""Two servers behind HAProxy: each function whose name begins with `check_` proves one thing. `test.sh` runs it."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

CONFIGURATION = pathlib.Path(__file__).parent / "haproxy" / "haproxy.cfg"
MAX_ANSWERS = 4
# More than the usual buffer of HAProxy, less than the one that is configured.
LARGE = 300_000
# More than that one.
HUGE = 3_000_000


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(what, true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


class Server:
    """A server that can be stopped and started again at the same port."""

    def __init__(self, name, port, program, model, log):
        self.name, self.port, self.log = name, port, log
        self.command = [program, "--model", model, "--served-model-name", "nano", "--port", str(port)]
        # A busy machine must not cut the stream that is to be complete.
        self.command += ["--max-answers", str(MAX_ANSWERS), "--drain", "100"]
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait_until(f"server {self.name} is ready", self.is_ready, 30)

    def is_ready(self):
        assert self.process.poll() is None, f"server {self.name} ended: {self.log.read_text()[-2000:]}"
        try:
            return get(self.port, "/health")[0] == 200
        except OSError:
            return False

    def metric(self, name, label=""):
        """The sum of all series of a name, of those that have this label."""
        series = (line for line in get(self.port, "/metrics")[1].splitlines() if line.startswith(name + "{"))
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in series if label in line)

    def running(self):
        return self.metric("vllm:num_requests_running")

    def answered(self):
        return self.metric("vllm:request_success_total")

    def stop(self, how, seconds=30):
        self.process.send_signal(how)
        return self.process.wait(seconds)


class Proxy:
    def __init__(self, folder, servers):
        self.port, self.admin = free_ports(2)
        self.socket = folder / "admin.sock"
        self.log = folder / "haproxy.log"
        self.environment = os.environ | {
            "LISTEN": f"127.0.0.1:{self.port}",
            "ADMIN": f"127.0.0.1:{self.admin}",
            "ADMIN_SOCKET": str(self.socket),
            "PROXY_USER": pwd.getpwuid(os.getuid()).pw_name,
            "SERVER_A": f"127.0.0.1:{servers[0].port}",
            "SERVER_B": f"127.0.0.1:{servers[1].port}",
            "MAX_ANSWERS": str(MAX_ANSWERS),
        }
        self.process = None

    def run(self, *arguments, **options):
        return subprocess.Popen(["haproxy", *arguments, "-f", str(CONFIGURATION)], env=self.environment, **options)

    def start(self):
        with open(self.log, "wb") as log:
            self.process = self.run("-db", stdout=log, stderr=log)
        wait_until("the proxy listens", self.is_ready)

    def is_ready(self):
        assert self.process.poll() is None, f"the proxy ended: {self.log.read_text()[-2000:]}"
        try:
            return get(self.admin, "/")[0] == 200
        except OSError:
            return False

    def row(self, name, backend="answers"):
        header, *rows = get(self.admin, "/;csv")[1].lstrip("# ").splitlines()
        rows = (dict(zip(header.split(","), row.split(","))) for row in rows)
        return next(row for row in rows if (row["pxname"], row["svname"]) == (backend, name))

    def is_up(self, server):
        return self.row(server.name)["status"].startswith("UP")

    def tell(self, command):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(command.encode() + b"\n")
            return connection.recv(4096).decode().strip()


class Setting:
    """Both servers, the proxy, and clients of it."""

    def __init__(self, folder, program, model):
        ports = free_ports(2)
        self.servers = [Server(n, p, program, model, folder / f"{n}.log") for n, p in zip("ab", ports)]
        self.proxy = Proxy(folder, self.servers)
        tokens = json.loads((pathlib.Path(model) / "tokenizer_config.json").read_text())["added_tokens_decoder"]
        # Without these an answer goes on until its limit.
        self.ends = [id for id, token in tokens.items() if token["content"] in ("<|im_end|>", "<|endoftext|>")]

    def all_up(self):
        """Begins each check with two servers at rest, whatever the one before left."""
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                server.start()
        if self.proxy.process is None:
            self.proxy.start()
        for server in self.servers:
            wait_until(f"server {server.name} is up", lambda: self.proxy.is_up(server))
            wait_until(f"server {server.name} is idle", lambda: server.running() == 0)

    def kill(self):
        for owner in [self.proxy, *self.servers]:
            if owner.process is not None and owner.process.poll() is None:
                owner.process.kill()
                owner.process.wait()
            owner.process = None

    def post(self, body, headers=(), timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=timeout)
        headers = {"content-type": "application/json"} | dict(headers)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return connection, connection.getresponse()

    def ask(self, headers=(), pad=0, **fields):
        """A short question; its answer whole."""
        body = {"messages": [{"role": "user", "content": "what is the sea?"}], "metadata": {"pad": "x" * pad}} | fields
        connection, response = self.post(body, headers)
        with contextlib.closing(connection):
            return response.status, json.loads(response.read()), response.headers

    def long_answer(self, tokens):
        return {
            "messages": [{"role": "user", "content": "what is the sea?"}],
            "max_completion_tokens": tokens,
            "logit_bias": {id: -100 for id in self.ends},
        }

    def stream(self, tokens=20_000):
        """A long answer, of which the first pieces have come, and the server that makes it."""
        before = [server.running() for server in self.servers]
        stream = Stream(*self.post(self.long_answer(tokens) | {"stream": True}))
        for _ in range(2):
            stream.event()
        more = [server for server, n in zip(self.servers, before) if server.running() > n]
        assert len(more) == 1, f"a new stream shows at {len(more)} servers"
        return stream, more[0]

    def other(self, server):
        return next(other for other in self.servers if other is not server)


class Stream:
    """Server-sent events as they come."""

    def __init__(self, connection, response):
        assert response.status == 200, f"a stream got {response.status}: {response.read()[:300]}"
        self.connection, self.response, self.rest = connection, response, b""

    def event(self):
        """The next event; `None` after the last. Raises if the connection ends before the body does."""
        while b"\n\n" not in self.rest:
            piece = self.response.read1(65536)
            if not piece:
                return None
            self.rest += piece
        event, self.rest = self.rest.split(b"\n\n", 1)
        return event.decode().removeprefix("data: ") if event.startswith(b"data: ") else self.event()

    def to_end(self):
        events = list(iter(self.event, None))
        self.close()
        return events

    def close(self):
        self.response.close()
        self.connection.close()


class WebSocket:
    """As much of RFC 6455 as a session needs to be opened, spoken to and closed."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /v1/realtime?model=nano HTTP/1.1", f"host: 127.0.0.1:{port}", "upgrade: websocket"]
        lines += ["connection: Upgrade", f"sec-websocket-key: {key}", "sec-websocket-version: 13", "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline().decode()
        headers = dict(line.decode().lower().strip().split(": ", 1) for line in iter(self.stream.readline, b"\r\n"))
        assert " 101 " in status, f"no WebSocket: {status}"
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert headers["sec-websocket-accept"] == base64.b64encode(accept).decode().lower(), "the wrong accept key"

    def frame(self):
        """Opcode and contents of the next frame but pings."""
        first, length = self.stream.read(2)
        if length >= 126:
            length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
        contents = self.stream.read(length)
        return (first & 15, contents) if first & 15 != 9 else self.frame()

    def event(self):
        opcode, contents = self.frame()
        assert opcode == 1, f"expected an event, got a frame of kind {opcode}: {contents[:100]}"
        return json.loads(contents)

    def send(self, event):
        contents, mask = json.dumps(event).encode(), os.urandom(4)
        assert len(contents) < 126, "short events only"
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(contents))
        self.socket.sendall(struct.pack("!BB", 0x81, 0x80 | len(contents)) + mask + masked)

    def close(self):
        self.stream.close()
        self.socket.close()


def check_configuration(at):
    """haproxy takes the configuration without a warning"""
    process = at.proxy.run("-c", "-dW", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output


def check_balance(at):
    """20 requests one after another are shared by both servers"""
    before = [server.answered() for server in at.servers]
    for _ in range(20):
        status, answer, _ = at.ask()
        assert status == 200, answer
    shares = [server.answered() - n for server, n in zip(at.servers, before)]
    assert sum(shares) == 20 and min(shares) >= 5, f"shares {shares}"
    return f"{shares[0]} and {shares[1]}"


def check_load(at):
    """long streams go where fewer run, and who hangs up frees the place"""
    streams = [at.stream() for _ in range(4)]
    running = [server.running() for server in at.servers]
    assert running == [2, 2], f"4 streams lie {running}"
    emptied = streams[0][1]
    for stream, server in streams:
        if server is emptied:
            stream.close()
    wait_until("the server notices", lambda: emptied.running() == 0)
    streams += [at.stream(), at.stream()]
    assert emptied.running() == 2, f"{emptied.running()} of 2 new streams went where none ran"
    for stream, _ in streams:
        stream.close()
    for server in at.servers:
        wait_until(f"server {server.name} notices", lambda: server.running() == 0)


def check_hang_up(at):
    """a client that hangs up before its whole answer came frees the place, too"""
    connection = http.client.HTTPConnection("127.0.0.1", at.proxy.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps(at.long_answer(20_000)))
    wait_until("it is being made", lambda: sum(server.running() for server in at.servers) == 1)
    connection.close()
    wait_until("the server notices", lambda: sum(server.running() for server in at.servers) == 0, 3)


def check_queue(at):
    """a request beyond all places waits in the proxy for whichever server is free first"""
    streams = [at.stream() for _ in range(2 * MAX_ANSWERS)]
    late = []
    thread = threading.Thread(target=lambda: late.append(at.ask()[0]), daemon=True)
    thread.start()
    wait_until("the request waits", lambda: at.proxy.row("BACKEND")["qcur"] == "1")
    waiting = [server.metric("vllm:num_requests_waiting") for server in at.servers]
    assert waiting == [0, 0] and not late, f"waiting at the servers: {waiting}, answered: {late}"
    last, server = streams[-1]
    before = server.answered()
    last.close()
    thread.join(30)
    assert late == [200], f"it got {late}"
    # The stream that was closed, and the request that took its place.
    assert server.answered() == before + 2, "it went to another server than the free one"
    for stream, _ in streams[:-1]:
        stream.close()


def check_sessions(at):
    """requests with one x-session-id reach the server that knows the spoken reply's id"""
    session = {"x-session-id": "a conversation"}
    aloud = {"modalities": ["text", "audio"], "audio": {"voice": voice(at), "format": "wav"}}
    status, answer, _ = at.ask(session, **aloud)
    assert status == 200, answer
    earlier = {"role": "assistant", "audio": {"id": answer["choices"][0]["message"]["audio"]["id"]}}
    question = {"role": "user", "content": "what is the sea?"}
    for _ in range(6):
        # Two others come in between, so that taking turns would not do.
        at.ask()
        at.ask()
        status, answer, _ = at.ask(session, messages=[question, earlier, question])
        assert status == 200, answer


def voice(at):
    return json.loads(get(at.proxy.port, "/v1/audio/voices")[1])["voices"][0]


def check_request_id(at):
    """x-request-id passes: the client's own, or the proxy's; the server logs the same"""
    _, _, own = at.ask({"x-request-id": "mine-1"})
    _, _, made = at.ask()
    assert own["x-request-id"] == "mine-1", own["x-request-id"]
    assert re.fullmatch(r"req_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["x-request-id"]), made["x-request-id"]
    for id in ("mine-1", made["x-request-id"]):
        wait_until(f"{id} is in the proxy's log", lambda: id in at.proxy.log.read_text(), 2)
        wait_until(f"{id} is in a server's log", lambda: any(id in server.log.read_text() for server in at.servers), 2)


def check_other_paths(at):
    """the page and the lists come through, metrics do not; the proxy has its own on loopback"""
    for path in ("/", "/v1/models", "/v1/audio/voices", "/health"):
        assert get(at.proxy.port, path)[0] == 200, path
    status, body = get(at.proxy.port, "/metrics")
    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url"), status
    assert "haproxy_backend_active_servers" in get(at.proxy.admin, "/metrics")[1]


def check_websocket(at):
    """a realtime session works through the proxy, both ways"""
    session = WebSocket(at.proxy.port)
    first = session.event()
    assert first["type"] == "session.created", first
    session.send({"type": "session.update", "session": {"type": "realtime", "instructions": "be brief"}})
    second = session.event()
    assert second["type"] == "session.updated" and second["session"]["instructions"] == "be brief", second
    session.close()


def check_kill(at):
    """killed in mid-stream: that client sees it, all others are answered by the other server"""
    # One stream on the server that dies, two on the other, so that a request goes to the first. It has sent nothing when the server
    # dies, so it is made again.
    fillers = [at.stream() for _ in range(3)]
    stream, killed = at.stream()
    for filler, server in fillers:
        if server is killed:
            filler.close()
    wait_until("it has one answer", lambda: killed.running() == 1)
    whole = []
    body = at.long_answer(1500)
    thread = threading.Thread(target=lambda: whole.append(at.post(body)[1].status), daemon=True)
    thread.start()
    wait_until("the whole answer is being made there", lambda: killed.running() == 2)
    killed.stop(signal.SIGKILL)
    for filler, _ in fillers:
        filler.close()
    began = time.monotonic()
    for _ in range(10):
        status, answer, _ = at.ask()
        assert status == 200, f"after the kill: {status} {answer}"
    slow = time.monotonic() - began
    assert slow < 10, f"10 requests took {slow:.1f} s"
    try:
        events = stream.to_end()
    except (http.client.IncompleteRead, ConnectionError) as broken:
        how = type(broken).__name__
    else:
        raise AssertionError(f"the broken stream ended like a complete one, with {events[-1:]}")
    thread.join(30)
    assert whole == [200], f"the answer that had sent nothing: {whole}"
    return f"{how}; 10 requests in {slow:.1f} s"


def check_return(at):
    """the killed server takes requests again once it is back"""
    before = [server.answered() for server in at.servers]
    for _ in range(4):
        at.ask()
    shares = [server.answered() - n for server, n in zip(at.servers, before)]
    assert min(shares) >= 1, f"shares {shares}"


def check_drain(at):
    """SIGTERM in mid-stream: the stream completes, the session is told, new requests go to the other server"""
    sessions = [WebSocket(at.proxy.port) for _ in at.servers]
    for session, server in zip(sessions, at.servers):
        session.event()
    open_sessions = [server.metric("omni:realtime_sessions") for server in at.servers]
    assert open_sessions == [1, 1], f"2 sessions lie {open_sessions}"
    # Two streams on one server; the one to be drained has fewer, so that new requests would go there.
    fillers = [at.stream() for _ in range(3)]
    stream, drained = at.stream(tokens=3000)
    other = at.other(drained)
    for filler, server in fillers:
        if server is drained:
            filler.close()
    wait_until("it has one answer", lambda: drained.running() == 1)
    assert other.running() == 2, f"{other.running()} at the other"
    before = other.answered()
    drained.process.send_signal(signal.SIGTERM)
    wait_until("it drains", lambda: get(drained.port, "/health")[0] == 503)
    for index in range(12):
        status, answer, _ = at.ask(pad=LARGE * (index % 2))
        assert status == 200, f"request {index} during the drain: {status} {answer}"
    refused = drained.metric("omni:requests_refused_total", 'code="shutting_down"')
    assert refused > 0, "no request met the draining server, so nothing was proved"
    assert drained.running() == 1, "the stream ended too soon, so nothing was proved"
    assert other.answered() == before + 12, f"the other answered {other.answered() - before} of 12"
    wait_until("the proxy takes it out", lambda: not at.proxy.is_up(drained), 5)
    for filler, server in fillers:
        filler.close()
    events = stream.to_end()
    assert events[-1] == "[DONE]", f"the stream ended with {events[-1:]}"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length", events[-2]
    code = drained.process.wait(30)
    assert code == 0, f"the drained server ended with {code}"
    endings = [ending(session) for session in sessions]
    assert sorted(endings, key=bool) == [None, ("shutting_down", 1001)], f"the sessions were told {endings}"
    for session in sessions:
        session.close()
    return f"{refused} requests were sent on"


def ending(session):
    """What a session was told at its end; `None` if it goes on."""
    session.socket.settimeout(0.5)
    try:
        error = session.event()["error"]["code"]
    except TimeoutError:
        return None
    opcode, contents = session.frame()
    return error, int.from_bytes(contents[:2], "big") if opcode == 8 else None


def check_drain_by_hand(at):
    """drained in the proxy first, requests larger than its buffer are not lost either"""
    one, other = at.servers
    before = other.answered()
    assert at.proxy.tell(f"set server answers/{one.name} state drain") == ""
    for _ in range(4):
        status, answer, _ = at.ask(pad=HUGE)
        assert status == 200, answer
    assert other.answered() == before + 4, "a drained server got requests"
    at.proxy.tell(f"set server answers/{one.name} state ready")


def check_rolling_restart(at):
    """both servers restarted one after another under load: no request is lost"""
    lost, answered, stop = [], [], threading.Event()

    def client(number):
        # Bounded, should nobody stop it.
        for index in range(2000):
            if stop.is_set():
                return
            kind = (number + index) % 4
            try:
                if kind == 0:
                    stream = Stream(*at.post(at.long_answer(30) | {"stream": True}))
                    fine = stream.to_end()[-1:] == ["[DONE]"]
                else:
                    status, answer, _ = at.ask(pad=LARGE * (kind == 1))
                    fine = status == 200 or f"{status} {answer}"
            except (OSError, http.client.HTTPException, AssertionError) as error:
                fine = repr(error)
            (answered if fine is True else lost).append(fine)
            time.sleep(0.02)

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for server in at.servers:
        time.sleep(0.5)
        code = server.stop(signal.SIGTERM)
        assert code == 0, f"server {server.name} ended with {code}"
        server.start()
        wait_until(f"server {server.name} is up again", lambda: at.proxy.is_up(server))
    wait_until("40 requests", lambda: len(answered) + len(lost) >= 40 and min(s.answered() for s in at.servers) > 0)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not lost, f"{len(lost)} of {len(answered) + len(lost)} requests were lost: {lost[:3]}"
    return f"{len(answered)} requests"


def check_none_left(at):
    """without any server: 503 in OpenAI's form, with the time after which to try again"""
    for server in at.servers:
        server.stop(signal.SIGTERM)
    status, answer, headers = at.ask({"x-request-id": "mine-2"})
    told = status, answer["error"]["type"], headers["retry-after"], headers["x-request-id"]
    assert told == (503, "server_error", "1", "mine-2"), told


def run(checks, at):
    passed = failed = 0
    for check in checks:
        began, ready = time.monotonic(), check is check_configuration
        try:
            if not ready:
                at.all_up()
                ready = True
            detail = check(at)
            word, passed = "ok    ", passed + 1
        except Exception as error:  # A check that stops for any reason has failed.
            detail, word, failed = f"{type(error).__name__}: {error}", "FAILED", failed + 1
            # What it left behind must not fail the next one.
            at.kill()
        seconds = time.monotonic() - began
        print(f"{word} {seconds:5.1f} s  {check.__doc__}" + (f" ({detail})" if detail else ""), flush=True)
        if not ready or failed and check is check_configuration:
            print("without servers and proxy nothing more can be checked")
            break
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    program, model = sys.argv[1:]
    checks = [value for name, value in globals().items() if name.startswith("check_")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: it took too long"))
    with tempfile.TemporaryDirectory() as folder:
        at = Setting(pathlib.Path(folder), os.path.abspath(program), model)
        try:
            return run(checks, at)
        finally:
            at.kill()


if __name__ == "__main__":
    sys.exit(main())
