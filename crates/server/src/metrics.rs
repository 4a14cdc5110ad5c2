//! What the server counts, under vLLM's names where it has them, so that dashboards fit.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use qwen3_omni::{Event, FinishReason, Reply, SpeechFinish, Timings, Usage};

use crate::error::CODES;

pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) running: IntGauge,
    pub(crate) waiting: IntGauge,
    /// Share of the positions that all answers together could hold.
    cache_usage: Gauge,
    prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    cache_queries: IntCounter,
    cache_hits: IntCounter,
    ended: IntCounterVec,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    prompt_length: Histogram,
    answer_length: Histogram,
    first_audio: Histogram,
    real_time_factor: Histogram,
    audio_seconds: prometheus::Counter,
    speech_stops: IntCounterVec,
    pub(crate) sessions: IntGauge,
    pub(crate) turn_latency: Histogram,
    refused: IntCounterVec,
    stages: HistogramVec,
}

/// Bounds of latencies in seconds: from a toy on the CPU to a long prompt.
const SECONDS: &[f64] = &[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Bounds of the time between tokens.
const STEP_SECONDS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.6, 1.0, 3.0];
const FACTORS: &[f64] = &[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0];
const TOKENS: &[f64] = &[1.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4];

/// Makes metrics and enters them into a registry.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<T: prometheus::core::Collector + Clone + 'static>(&self, metric: T) -> prometheus::Result<T> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec()))?)
    }
}

impl Metrics {
    pub(crate) fn new(model_name: &str) -> prometheus::Result<Self> {
        let labels = HashMap::from([("model_name".to_owned(), model_name.to_owned())]);
        let registry = Registry::new_custom(None, Some(labels))?;
        let make = Maker(&registry);
        let metrics = Self {
            running: make.gauge("vllm:num_requests_running", "Answers that are being generated")?,
            waiting: make.gauge("vllm:num_requests_waiting", "Requests that wait for a place")?,
            cache_usage: make.add(Gauge::new("vllm:kv_cache_usage_perc", "Share of all positions that are held")?)?,
            prompt_tokens: make.counter("vllm:prompt_tokens_total", "Tokens of prompts")?,
            generated_tokens: make.counter("vllm:generation_tokens_total", "Text tokens and codec frames")?,
            cache_queries: make.counter("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache")?,
            cache_hits: make.counter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache")?,
            ended: make.counters("vllm:request_success_total", "Answers that ended", "finished_reason")?,
            first_token: make.histogram("vllm:time_to_first_token_seconds", "Request to first text", SECONDS)?,
            between_tokens: make.histogram(
                "vllm:inter_token_latency_seconds",
                "Between two pieces of text",
                STEP_SECONDS,
            )?,
            whole: make.histogram("vllm:e2e_request_latency_seconds", "Request to end", SECONDS)?,
            prompt_length: make.histogram("vllm:request_prompt_tokens", "Tokens of a prompt", TOKENS)?,
            answer_length: make.histogram(
                "vllm:request_generation_tokens",
                "Tokens and frames of an answer",
                TOKENS,
            )?,
            first_audio: make.histogram("omni:time_to_first_audio_seconds", "Request to first sound", SECONDS)?,
            real_time_factor: make.histogram("omni:real_time_factor", "Time to make a second of sound", FACTORS)?,
            audio_seconds: make.add(prometheus::Counter::new("omni:audio_seconds_total", "Seconds of sound made")?)?,
            speech_stops: make.counters("omni:speech_stops_total", "Speech that a guard stopped", "reason")?,
            sessions: make.gauge("omni:realtime_sessions", "Open realtime sessions")?,
            turn_latency: make.histogram(
                "omni:realtime_turn_latency_seconds",
                "End of speech to first sound",
                SECONDS,
            )?,
            refused: make.counters("omni:requests_refused_total", "Requests that were refused", "code")?,
            stages: make.add(HistogramVec::new(
                HistogramOpts::new("omni:stage_seconds", "Time of a stage in an answer").buckets(SECONDS.to_vec()),
                &["stage"],
            )?)?,
            registry,
        };
        metrics.make_samples();
        Ok(metrics)
    }

    /// Makes the samples of all labels: one that is missing is no zero to a dashboard.
    fn make_samples(&self) {
        let guards = [SpeechFinish::Overrun, SpeechFinish::Loop, SpeechFinish::Silence].into_iter().filter_map(guard);
        guards.for_each(|reason| drop(self.speech_stops.with_label_values(&[reason])));
        ENDS.iter().for_each(|reason| drop(self.ended.with_label_values(&[reason])));
        CODES.iter().for_each(|code| drop(self.refused.with_label_values(&[code])));
        stages(&Timings::default()).iter().for_each(|(stage, _)| drop(self.stages.with_label_values(&[stage])));
    }

    /// Counts a request that was refused.
    pub(crate) fn refuse(&self, code: &str) {
        self.refused.with_label_values(&[code]).inc();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into memory does not fail, and every metric was checked when it was registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// Counts an answer's end, and the seconds that it took.
    fn end(&self, reason: &str, seconds: f64) {
        self.ended.with_label_values(&[reason]).inc();
        self.whole.observe(seconds);
    }

    /// Counts what a complete answer holds.
    fn count(&self, reply: &Reply) {
        let usage = &reply.usage;
        let made = usage.text_tokens + usage.frames;
        self.prompt_tokens.inc_by(usage.prompt_tokens as u64);
        self.generated_tokens.inc_by(made as u64);
        self.cache_queries.inc_by(usage.prompt_tokens as u64);
        self.cache_hits.inc_by(usage.cached_tokens as u64);
        self.prompt_length.observe(usage.prompt_tokens as f64);
        self.answer_length.observe(made as f64);
        self.audio_seconds.inc_by(usage.audio.as_secs_f64());
        if let Some(factor) = reply.real_time_factor().filter(|_| reason(reply) != "abort") {
            self.real_time_factor.observe(factor);
        }
        if let Some(reason) = reply.speech.as_ref().and_then(|speech| guard(speech.finish_reason)) {
            self.speech_stops.with_label_values(&[reason]).inc();
        }
        self.count_stages(reply);
    }

    /// Counts what an answer holds that did not come to its end.
    fn count_cut(&self, prompt_tokens: usize, made: usize) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.generated_tokens.inc_by(made as u64);
        self.prompt_length.observe(prompt_tokens as f64);
        self.answer_length.observe(made as f64);
    }

    fn count_stages(&self, reply: &Reply) {
        for (stage, time) in stages(&reply.timings).into_iter().filter(|(_, time)| !time.is_zero()) {
            self.stages.with_label_values(&[stage]).observe(time.as_secs_f64());
        }
    }
}

/// Why answers end, in vLLM's words.
const ENDS: [&str; 4] = ["stop", "length", "abort", "error"];

fn stages(times: &Timings) -> [(&'static str, Duration); 6] {
    [
        ("preprocessing", times.preprocessing),
        ("encoders", times.encoders),
        ("thinker", times.thinker),
        ("talker", times.talker),
        ("code_predictor", times.code_predictor),
        ("vocoder", times.vocoder),
    ]
}

fn guard(finish: SpeechFinish) -> Option<&'static str> {
    match finish {
        SpeechFinish::Overrun => Some("overrun"),
        SpeechFinish::Loop => Some("loop"),
        SpeechFinish::Silence => Some("silence"),
        _ => None,
    }
}

/// An open session, counted until this is dropped.
pub(crate) struct OpenSession(std::sync::Arc<Metrics>);

impl OpenSession {
    pub(crate) fn new(metrics: &std::sync::Arc<Metrics>) -> Self {
        metrics.sessions.inc();
        Self(metrics.clone())
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.sessions.dec();
    }
}

/// Watches one answer, from the request to its end.
pub(crate) struct AnswerClock {
    metrics: std::sync::Arc<Metrics>,
    requested: Instant,
    last_text: Option<Instant>,
    /// Seconds from the request.
    first_text: Option<f64>,
    first_sound: Option<f64>,
    ended: bool,
    /// Tokens of the prompt, and pieces of text so far, about a token each.
    prompt_tokens: usize,
    pieces: usize,
    /// The prompt's share of all positions.
    held: f64,
    /// Names the request in the log.
    span: tracing::Span,
}

impl AnswerClock {
    /// Begins with the request; the prompt has `prompt_tokens` and holds this share of all positions.
    pub(crate) fn new(
        metrics: std::sync::Arc<Metrics>,
        requested: Instant,
        (prompt_tokens, held): (usize, f64),
    ) -> Self {
        metrics.cache_usage.add(held);
        let (span, ended) = (tracing::Span::current(), false);
        let (last_text, first_text, first_sound) = (None, None, None);
        Self { metrics, requested, last_text, first_text, first_sound, ended, prompt_tokens, pieces: 0, held, span }
    }

    fn seconds(&self) -> f64 {
        self.requested.elapsed().as_secs_f64()
    }

    /// Takes an event of the answer.
    pub(crate) fn observe(&mut self, event: &Event) {
        match event {
            Event::Text(_) | Event::Thinking(_) | Event::ToolCall(_) => self.text(),
            Event::Audio(_) if self.first_sound.is_none() => {
                let seconds = self.seconds();
                self.first_sound = Some(seconds);
                self.metrics.first_audio.observe(seconds);
            }
            Event::Done(reply) => {
                self.metrics.count(reply);
                self.end(reason(reply), Some(reply.usage));
            }
            _ => {}
        }
    }

    fn text(&mut self) {
        self.pieces += 1;
        match self.last_text.replace(Instant::now()) {
            Some(last) => self.metrics.between_tokens.observe(last.elapsed().as_secs_f64()),
            None => {
                let seconds = self.seconds();
                self.first_text = Some(seconds);
                self.metrics.first_token.observe(seconds);
            }
        }
    }

    fn end(&mut self, reason: &str, usage: Option<Usage>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let seconds = self.seconds();
        self.metrics.end(reason, seconds);
        if usage.is_none() {
            self.metrics.count_cut(self.prompt_tokens, self.pieces);
        }
        tracing::info!(
            parent: &self.span,
            finish_reason = reason,
            prompt_tokens = usage.map(|usage| usage.prompt_tokens),
            completion_tokens = usage.map(|usage| usage.text_tokens),
            frames = usage.map(|usage| usage.frames),
            first_text = self.first_text,
            first_sound = self.first_sound,
            seconds,
            "answer"
        );
    }

    /// Notes that the answer failed.
    pub(crate) fn fail(&mut self) {
        self.end("error", None);
    }
}

impl Drop for AnswerClock {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { "error" } else { "abort" }, None);
        self.metrics.cache_usage.sub(self.held);
    }
}

fn reason(reply: &Reply) -> &'static str {
    if reply.speech.as_ref().is_some_and(|speech| speech.finish_reason == SpeechFinish::Cancelled) {
        return "abort";
    }
    match reply.finish_reason {
        FinishReason::Limit | FinishReason::Context => "length",
        FinishReason::Cancelled => "abort",
        _ => "stop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_panics_is_counted_no_longer() {
        let metrics = std::sync::Arc::new(Metrics::new("m").unwrap());
        let session = OpenSession::new(&metrics);
        assert_eq!(metrics.sessions.get(), 1);
        let ended = std::thread::spawn(move || {
            let _open = session;
            panic!("a session");
        });
        assert!(ended.join().is_err() && metrics.sessions.get() == 0);
    }

    #[test]
    fn a_fresh_server_has_a_sample_of_every_metric() {
        let text = String::from_utf8(Metrics::new("m").unwrap().text()).unwrap();
        for (name, label) in [
            ("vllm:request_success_total", "finished_reason=\"abort\""),
            ("omni:requests_refused_total", "code=\"rate_limit_exceeded\""),
            ("omni:stage_seconds_count", "stage=\"vocoder\""),
            ("omni:speech_stops_total", "reason=\"loop\""),
        ] {
            let is_sample = |line: &str| line.starts_with(name) && line.contains(label) && line.ends_with("} 0");
            assert!(text.lines().any(is_sample), "{name} {label} is not in\n{text}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_counted_as_far_as_it_came() {
        let metrics = std::sync::Arc::new(Metrics::new("m").unwrap());
        let mut clock = AnswerClock::new(metrics.clone(), Instant::now(), (7, 0.0));
        for _ in 0..3 {
            clock.observe(&Event::Text("red".into()));
        }
        drop(clock);
        assert_eq!((metrics.prompt_tokens.get(), metrics.generated_tokens.get()), (7, 3));
        assert_eq!(metrics.ended.with_label_values(&["abort"]).get(), 1);
    }
}
