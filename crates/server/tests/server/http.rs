//! Requests and their answers.

use qwen3_omni_server::{Limits, Server, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::{ANSWER, KEY, Running, SUM, agent, config, data_lines, endless_question, error, question, read, recording};

fn with(field: &str, value: Value) -> Value {
    let mut body = question();
    body[field] = value;
    body
}

fn parts(part: Value) -> Value {
    json!({"messages": [{"role": "user", "content": [part, {"type": "text", "text": "what do you see"}]}]})
}

#[test]
fn what_is_asked_while_the_model_loads_is_told_so_by_the_name_of_its_request() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let never = std::future::pending::<Result<Server, ()>>();
    runtime.spawn(serve(listener, never, std::future::pending::<()>, Limits::default()));
    for path in ["/health", "/v1/models"] {
        let request = agent().get(format!("http://{address}{path}")).header("x-request-id", "mine");
        let answer = request.call().unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let named = [header("x-request-id"), header("x-content-type-options")];
        assert_eq!((answer.status().as_u16(), named), (503, ["mine".to_owned(), "nosniff".to_owned()]), "{path}");
        let body = read(answer).1;
        assert!(body["status"] == "loading" || error(&body).0 == "loading", "{body}");
    }
}

#[test]
fn a_wrong_field_is_named_and_unknown_ones_are_ignored() {
    let server = Running::new(config());
    let cases = [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": 3}), "messages"),
        (json!({"messages": [3]}), "messages[0]"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "judge", "content": "a"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": ""}]}), "messages"),
        (json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}), "messages"),
        (parts(json!({"type": "smell"})), "messages[0].content[0].type"),
        (parts(json!({"type": "image_url", "image_url": {}})), "messages[0].content[0].image_url.url"),
        (
            parts(json!({"type": "input_audio", "input_audio": {"data": "%%"}})),
            "messages[0].content[0].input_audio.data",
        ),
        (parts(json!({"type": "image_url", "image_url": {"url": "data:,xx"}})), "messages[0].content[0].image_url.url"),
        (
            parts(json!({"type": "video_url", "video_url": {"url": "file:///x"}})),
            "messages[0].content[0].video_url.url",
        ),
        (with("temperature", json!(9)), "temperature"),
        (with("temperature", json!("hot")), "temperature"),
        (with("top_p", json!(-1)), "top_p"),
        (with("top_k", json!(1.5)), "top_k"),
        (with("n", json!(0)), "n"),
        (with("n", json!(5)), "n"),
        (with("stop", json!(["a", ""])), "stop"),
        (with("stop", json!(vec!["a"; 17])), "stop"),
        (with("logit_bias", json!({"x": 1})), "logit_bias"),
        (with("top_logprobs", json!(2)), "top_logprobs"),
        (with("max_tokens", json!(0)), "max_tokens"),
        (with("stream", json!("yes")), "stream"),
        (with("modalities", json!(["smell"])), "modalities"),
        (with("modalities", json!(["text", "audio"])), "audio"),
        (with("tools", json!([{"type": "function"}])), "tools[0].name"),
        (with("tool_choice", json!("required")), "tool_choice"),
        (with("user", json!(3)), "user"),
        (with("metadata", json!("a")), "metadata"),
        (with("logit_bias", json!({"99999999": 1})), "logit_bias"),
        (json!({"messages": [{"role": "user", "content": []}]}), "messages[0].content"),
        (with("response_format", json!({"type": "xml"})), "response_format.type"),
        (with("response_format", json!({"type": "json_schema"})), "response_format.json_schema"),
    ];
    for (body, param) in cases {
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert_eq!((status, error(&answer).1), (400, param), "{body}: {answer}");
    }
    let (status, answer) = server.post("/v1/chat/completions", &with("a_field_of_tomorrow", json!({"x": [1]})));
    assert_eq!((status, answer["choices"][0]["message"]["content"].as_str()), (200, Some(ANSWER)));
}

#[test]
fn what_is_no_json_is_refused_and_so_is_another_model() {
    let server = Running::new(config());
    let deep = "[".repeat(10_000);
    let many = format!("{{\"messages\": [], \"x\": [{}[]]}}", "[],".repeat(1 << 20));
    for body in [&b"{"[..], b"", b"[]", b"\xff\xfe", deep.as_bytes(), many.as_bytes()] {
        let (status, answer) = server.post_raw("/v1/chat/completions", body);
        assert_eq!((status, error(&answer).0), (400, "invalid_json"));
    }
    let (status, answer) = server.post("/v1/chat/completions", &with("model", json!("gpt-none")));
    assert_eq!((status, error(&answer)), (404, ("model_not_found", "model")));
    assert_eq!(error(&server.get("/v1/models/%ff").1), ("invalid_value", "model"));
    assert_eq!(error(&server.get("/v1/nothing").1).0, "unknown_url");
    assert_eq!(server.get("/v1/chat/completions").0, 405);
}

#[test]
fn keys_origins_and_host_names_are_checked() {
    let hosts = vec!["127.0.0.1".to_owned()];
    let server = Running::new(config().allowed_origins(["http://allowed.example"]).allowed_hosts(hosts));
    let ask = |headers: &[(&str, &str)]| {
        let request = agent().get(server.url("/v1/models"));
        read(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).call().unwrap())
    };
    let key = format!("Bearer {KEY}");
    let key = ("authorization", key.as_str());
    assert_eq!(ask(&[key]).0, 200);
    for wrong in ["Bearer sk-wrong", "Bearer ", "Basic sk-test"] {
        let (status, body) = ask(&[("authorization", wrong)]);
        assert_eq!((status, error(&body).0), (401, "invalid_api_key"));
        assert!(!body.to_string().contains("sk-"), "a key is repeated");
    }
    assert_eq!(ask(&[key, ("origin", "http://allowed.example")]).0, 200);
    // A page cannot know the key; without one, its origin is all there is.
    assert_eq!(ask(&[key, ("origin", "http://evil.example")]).0, 200);
    let open = Running::new(config().api_keys([""; 0]));
    let foreign = agent().get(open.url("/v1/models")).header("origin", "http://evil.example").call().unwrap();
    assert_eq!(error(&read(foreign).1).0, "origin_not_allowed");
    assert_eq!(error(&ask(&[key, ("host", "evil.example")]).1).0, "host_not_allowed");
    // What tells nothing needs no key.
    assert_eq!(agent().get(server.url("/health")).call().unwrap().status(), 200);
}

#[test]
fn the_routes_stand_beside_those_of_another_service() {
    let own = axum::Router::new().route("/hello", axum::routing::get(|| async { "hello" }));
    let routes = own.merge(qwen3_omni_server::router(crate::nano(), config()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, routes).await });
    let get = |path: &str| read(agent().get(format!("http://{address}{path}")).call().unwrap());
    assert_eq!(get("/hello"), (200, json!("hello")));
    assert_eq!((get("/health").0, get("/v1/models").0, get("/nothing").0), (200, 401, 404));
}

#[test]
fn a_spoken_reply_can_be_named_in_the_next_turn() {
    let server = Running::new(config());
    let mut body = question();
    body["modalities"] = json!(["text", "audio"]);
    body["audio"] = json!({"voice": "chelsie", "format": "wav"});
    let (status, answer) = server.post("/v1/chat/completions", &body);
    let audio = &answer["choices"][0]["message"]["audio"];
    assert_eq!((status, audio["transcript"].as_str()), (200, Some(ANSWER)));
    let next = |id: &Value| {
        json!({"messages": [
            {"role": "user", "content": SUM},
            {"role": "assistant", "audio": {"id": id}},
            {"role": "user", "content": "repeat red cat nine"},
        ]})
    };
    let (named, _) = server.post("/v1/chat/completions", &next(&audio["id"]));
    assert_eq!(named, 200);
    let (status, unknown) = server.post("/v1/chat/completions", &next(&json!("audio_none")));
    assert_eq!((status, error(&unknown)), (400, ("audio_not_found", "messages[1].audio.id")));
}

#[test]
fn a_schema_that_would_take_the_parser_too_long_is_refused() {
    let server = Running::new(config());
    let properties: serde_json::Map<_, _> =
        (0..2500).map(|index| (format!("p{index}"), json!({"type": "integer"}))).collect();
    let required: Vec<String> = properties.keys().cloned().collect();
    let schema = json!({"type": "object", "properties": properties, "required": required});
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    let (status, answer) = server.post("/v1/chat/completions", &with("response_format", format));
    assert_eq!((status, error(&answer).1), (400, "response_format.json_schema.schema"));
    let tool = json!({"type": "function", "function": {"name": "a", "parameters": schema}});
    let (status, answer) = server.post("/v1/chat/completions", &{
        let mut body = with("tools", json!([tool]));
        body["tool_choice"] = json!("required");
        body
    });
    assert_eq!((status, error(&answer).1), (400, "tools"));
    assert_eq!(server.ask().0, 200);
}

#[test]
fn a_schema_that_cannot_be_followed_is_refused_in_a_sentence() {
    let server = Running::new(config());
    for schema in [json!({"$ref": "#"}), json!({"type": "string", "pattern": "(?=a)"}), json!({"type": "smell"})] {
        let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
        let (status, answer) = server.post("/v1/chat/completions", &with("response_format", format));
        assert_eq!((status, error(&answer).1), (400, "response_format.json_schema.schema"), "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.len() < 300 && !message.contains('\n') && !message.contains("<state>"), "{message}");
    }
}

#[test]
fn an_answer_that_makes_no_sound_is_still_a_spoken_one() {
    let server = Running::new(config());
    let mut body = question();
    body["modalities"] = json!(["text", "audio"]);
    body["talker_max_new_tokens"] = json!(1);
    for format in ["wav", "flac", "opus", "pcm16"] {
        body["audio"] = json!({"voice": "chelsie", "format": format});
        let (status, answer) = server.post("/v1/chat/completions", &body);
        let message = &answer["choices"][0]["message"];
        assert_eq!((status, &message["content"]), (200, &Value::Null), "{answer}");
        assert_eq!(message["audio"]["transcript"], ANSWER);
        let data = message["audio"]["data"].as_str().unwrap();
        assert_eq!(data.is_empty(), format == "pcm16", "{format}");
    }
    body["stream"] = json!(true);
    let lines = data_lines(&server.post_for_bytes("/v1/chat/completions", &body).1);
    assert!(lines.iter().any(|line| line.contains("expires_at")), "{lines:?}");
}

#[test]
fn a_text_of_marks_alone_is_no_empty_file() {
    let server = Running::new(config());
    for format in ["wav", "pcm", "flac", "opus"] {
        let body = json!({"voice": "ethan", "input": "<tool_call>", "response_format": format});
        let (status, answer) = server.post("/v1/audio/speech", &body);
        assert!(status == 200 && answer.as_str().is_some_and(|file| file.len() > 1000) || error(&answer).1 == "input");
    }
}

#[test]
fn counts_of_a_prompt_tell_sound_from_text() {
    let server = Running::new(config());
    let (status, answer) = read(server.transcribe(recording(), &[("prompt", "what did i say")]));
    assert_eq!(status, 200, "{answer}");
    let details = &answer["usage"]["input_token_details"];
    assert!((20..=32).contains(&details["audio_tokens"].as_u64().unwrap()), "{answer}");
    assert!(details["text_tokens"].as_u64().unwrap() > 3 && !answer["text"].as_str().unwrap().is_empty());
}

#[test]
fn metrics_count_answers_and_refusals() {
    let server = Running::new(config());
    let read = |name: &str| -> f64 {
        let (_, text) = server.get("/metrics");
        let text = text.as_str().unwrap().to_owned();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().unwrap().parse().ok()).unwrap_or(0.0)
    };
    let (_, answer) = server.ask();
    assert_eq!(read("vllm:prompt_tokens_total"), answer["usage"]["prompt_tokens"].as_f64().unwrap());
    assert_eq!(read("vllm:generation_tokens_total"), answer["usage"]["completion_tokens"].as_f64().unwrap());
    assert_eq!(read("vllm:request_success_total{finished_reason=\"stop\""), 1.0);
    server.post("/v1/chat/completions", &json!({}));
    assert_eq!(read("omni:requests_refused_total{code=\"missing_required_parameter\""), 1.0);
    assert_eq!(read("vllm:num_requests_running"), 0.0);
}

/// The text of a choice, and the bytes of its tokens joined: of a whole answer and of a stream.
fn texts_and_tokens(server: &Running, mut body: Value) -> [(String, String); 2] {
    body["logprobs"] = json!(true);
    let tokens = |list: &Value| -> Vec<u8> {
        let each = list.as_array().into_iter().flatten().flat_map(|token| token["bytes"].as_array().unwrap());
        each.map(|byte| byte.as_u64().unwrap() as u8).collect()
    };
    let (status, answer) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
    let whole = (text, tokens(&choice["logprobs"]["content"]));
    body["stream"] = json!(true);
    let mut streamed = (String::new(), Vec::new());
    for line in data_lines(&server.post_for_bytes("/v1/chat/completions", &body).1) {
        let Ok(chunk) = serde_json::from_str::<Value>(&line) else { continue };
        let choice = &chunk["choices"][0];
        streamed.0 += choice["delta"]["content"].as_str().unwrap_or_default();
        streamed.1.extend(tokens(&choice["logprobs"]["content"]));
    }
    [whole, streamed].map(|(text, bytes)| (text, String::from_utf8(bytes).unwrap()))
}

#[test]
fn the_tokens_of_log_probabilities_are_the_text_and_nothing_behind_a_stop_string() {
    let server = Running::new(config());
    for (stop, expected) in [("plus", "seven "), ("seven", ""), ("lus fi", "seven p"), ("none of it", ANSWER)] {
        for (text, tokens) in texts_and_tokens(&server, with("stop", json!(stop))) {
            assert_eq!((text.as_str(), tokens.as_str()), (expected, expected), "{stop}");
        }
    }
    // Any tokens in any order, cut by the limit.
    for seed in 0..4 {
        let mut body = endless_question();
        (body["seed"], body["max_tokens"], body["temperature"]) = (json!(seed), json!(60), json!(2));
        for (text, tokens) in texts_and_tokens(&server, body) {
            assert!(!text.is_empty() && text == tokens, "{text:?} is not {tokens:?}");
        }
    }
    // A call is none of the text.
    let tool = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}});
    let mut body = with("tools", json!([tool]));
    body["tool_choice"] = json!("required");
    body["max_tokens"] = json!(100);
    for (text, tokens) in texts_and_tokens(&server, body) {
        assert_eq!(text, tokens);
    }
}
