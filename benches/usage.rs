//! Costs of the usage layer per request: reading a body, and watching a response.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use tidegate::usage::{
    BodyKind, Calibration, Demand, EstimateRule, Lesson, Meter, Tokenizer, Usage, limit_output,
};

/// Text with the mix of letters, line ends and quotes that prompts have.
const SENTENCE: &str =
    "The harbour clocks had stopped, and \"nobody\" in the office could say why.\n";

/// A chat request of about so many bytes of JSON.
fn chat(bytes: usize) -> serde_json::Value {
    let turns = bytes.div_ceil(4096).max(2);
    let text = SENTENCE.repeat((bytes / turns).div_ceil(SENTENCE.len() + 24));
    let messages: Vec<_> = (0..turns)
        .map(|turn| if turn % 2 == 0 { "user" } else { "assistant" })
        .map(|role| json!({"role": role, "content": text}))
        .collect();
    json!({"model": "some-model", "messages": messages, "max_completion_tokens": 1024,
        "stream": true, "temperature": 0.7, "stop": ["###"], "user": "someone"})
}

/// A chat request of about so many bytes of JSON that are tools, as an agent sends them with each turn.
fn tools(bytes: usize) -> serde_json::Value {
    let tool = |at: usize| {
        json!({"type": "function", "function": {"name": format!("tool_{at}"), "strict": true,
            "description": "Looks up what is known of one berth and who is in it.",
            "parameters": {"type": "object", "required": ["berth", "day"], "properties": {
                "berth": {"type": "string", "enum": ["north", "south", "fish quay"]},
                "day": {"type": "string", "format": "date", "description": "As in 2026-01-31."},
                "limit": {"type": "integer", "minimum": 1, "maximum": 100}}}}})
    };
    let count = bytes / tool(0).to_string().len();
    json!({"model": "some-model", "tools": (0..count).map(tool).collect::<Vec<_>>(),
        "messages": [{"role": "user", "content": SENTENCE}], "max_completion_tokens": 1024})
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("demand");
    for (name, content_type) in [("json", None), ("msgpack", Some("application/msgpack"))] {
        let kind = BodyKind::from_headers(content_type, None).expect("both are supported");
        for kib in [1_usize, 32, 256] {
            let body = chat(kib << 10);
            let bytes = match content_type {
                None => body.to_string().into_bytes(),
                Some(_) => rmp_serde::to_vec_named(&body).expect("a tree can be written"),
            };
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(BenchmarkId::new(name, format!("{kib}KiB")), |bencher| {
                bencher.iter(|| Demand::read(kind, black_box(&bytes), 1 << 20));
            });
        }
    }
    let body = tools(32 << 10).to_string().into_bytes();
    let kind = BodyKind::from_headers(None, None).expect("JSON");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("tools/32KiB", |bencher| {
        bencher.iter(|| Demand::read(kind, black_box(&body), 1 << 20));
    });
    group.finish();
}

/// An event stream of about so many bytes, with its usage at the end.
fn stream(bytes: usize) -> Vec<u8> {
    let mut body = String::new();
    while body.len() < bytes {
        let chunk = json!({"id": "chatcmpl-3f0c2f5e-5a8e-4b7d-9d59-5b1f3ad1c0de",
            "choices": [{"delta": {"content": " harbour"}, "index": 0}], "created": 1_790_000_000,
            "model": "some-model", "system_fingerprint": "fp_0123456789abcdef0123",
            "object": "chat.completion.chunk"});
        body += &format!("data: {chunk}\n\n");
    }
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 1000,
        "total_tokens": 1010, "prompt_tokens_details": {"cached_tokens": 0}}});
    body += &format!("data: {usage}\n\ndata: [DONE]\n\n");
    body.into_bytes()
}

fn meter(criterion: &mut Criterion) {
    let answer = json!({"id": "chatcmpl-3f0c2f5e", "choices": [{"index": 0, "message":
        {"role": "assistant", "content": SENTENCE.repeat((64 << 10) / SENTENCE.len())}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1000, "total_tokens": 1010}});
    let mut group = criterion.benchmark_group("meter");
    for (name, content_type, body) in [
        ("sse_256KiB", "text/event-stream", stream(256 << 10)),
        ("json_64KiB", "application/json", answer.to_string().into_bytes()),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut meter = Meter::new(Some(content_type), None);
                for piece in black_box(&body).chunks(1024) {
                    meter.feed(piece);
                }
                meter.finish();
                let seen = meter.seen();
                assert!(seen.usage.is_some(), "a meter that misses the usage is no fast meter");
                seen
            });
        });
    }
    group.finish();
}

/// What a request costs: the bound from what was learned, and what an answer teaches.
fn calibrate(criterion: &mut Criterion) {
    let kind = BodyKind::from_headers(None, None).expect("JSON");
    let rule = EstimateRule::assumed(16_384);
    let body = chat(4 << 10).to_string().into_bytes();
    let demand = Demand::read(kind, &body, 1 << 20).expect("a request");
    let usage = Usage { prompt: 900, completion: 100, total: 1_000, cached: 0 };
    let lesson = Lesson { usage, counted: None, cut: false };
    let mut calibration = Calibration::default();
    (0..50).for_each(|_| calibration.learn(&demand, lesson));
    let mut group = criterion.benchmark_group("calibration");
    group.bench_function("bound", |bencher| {
        bencher.iter(|| calibration.prompt(&rule, black_box(&demand), None));
    });
    group.bench_function("fair", |bencher| {
        bencher.iter(|| calibration.fair(&rule, black_box(&demand)));
    });
    group.bench_function("learn", |bencher| {
        bencher.iter(|| calibration.learn(black_box(&demand), lesson));
    });
    group.finish();
    let mut group = criterion.benchmark_group("body");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("count_o200k_4KiB", |bencher| {
        bencher.iter(|| Tokenizer::O200k.count_prompt(kind, black_box(&body), 1 << 20));
    });
    group.bench_function("limit_output_4KiB", |bencher| {
        bencher.iter(|| limit_output(kind, black_box(&body), 1 << 20, 4_096));
    });
    group.finish();
}

criterion_group!(benches, read, calibrate, meter);
criterion_main!(benches);
