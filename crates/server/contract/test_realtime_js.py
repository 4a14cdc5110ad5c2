"""The OpenAI Agents SDK for JavaScript, with the session it asks for by default (semantic VAD, transcription, tracing)."""

import json
import os
import pathlib
import subprocess

import pytest
from helpers import plain, spoken

# Where the packages are installed.
JS = pathlib.Path(os.environ.get("CONTRACT_JS") or pathlib.Path(__file__).parent / "js")
pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def node(base_url, api_key, model, tmp_path_factory):
    if not (JS / "node_modules").exists():
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=JS, check=True)

    def node(case, sound=None):
        more = []
        if sound:
            path = tmp_path_factory.mktemp("sound") / "q.pcm"
            path.write_bytes(sound)
            more = [str(path)]
        url = f"{base_url.replace('http', 'ws', 1)}/v1/realtime"
        got = subprocess.run(["node", "agents.mjs", url, api_key, model, case, *more], cwd=JS, capture_output=True, text=True, timeout=60)
        assert got.returncode == 0, got.stderr[-2000:]
        return json.loads(got.stdout.strip().splitlines()[-1])

    return node


def assistant(history):
    return [part.get("transcript") or part.get("text") or "" for item in history if item.get("role") == "assistant" for part in item["content"]]


def test_a_typed_question(node):
    got = node("text")
    assert not got["errors"]
    assert plain(got["transcript"]) == "seven plus five is twelve"
    assert got["audio_bytes"] > 24_000
    assert plain(assistant(got["history"])[-1]) == "seven plus five is twelve", "the SDK's own history has it"


def test_a_spoken_question(node):
    got = node("sound", spoken("spoken_sum_question.wav", 0.5, 6.0))
    assert not got["errors"]
    assert plain(got["transcript"]) == "five plus seven is twelve"
    assert "input_audio_buffer.speech_started" in got["events"] and got["audio_bytes"] > 24_000


def test_a_tool(node):
    got = node("tool")
    assert not got["errors"]
    assert isinstance(got["tool"]["deep"], bool), "the SDK has run the tool"


def test_an_interruption(node):
    got = node("interrupt", spoken("spoken_hello_question.wav", 0.0, 1.0))
    assert not [error for error in got["errors"] if "response_cancel_not_active" not in error], got["errors"]
    assert "input_audio_buffer.speech_started" in got["events"]
    assert got["events"].count("response.created") >= 2 and "response.done" in got["events"], "the answer that was broken off, and one to what was said"
