use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::view::Action;
use super::*;
use crate::admin::Client;

fn snapshot() -> Snapshot {
    serde_json::from_value(json!({
        "version": "1.2.3", "draining": false, "in_flight": 1_300, "connections": 40, "new": [1],
        "pools": [
            {"pool": "00000001", "model": "quiet", "profile": "default", "queued": 0},
            {
                "pool": "00000002", "model": "busy", "profile": "large", "queued": 1_234,
                "upstream": {"window_seconds": 300, "successes": 2_345, "failures": 2,
                    "refusals": 0, "last_failure": "timeout"},
                "in_flight": 3, "oldest_wait_seconds": 61.5, "limited_by": "tokens/minute",
                "classes": [
                    {"class": "interactive", "queued": 4, "oldest_wait_seconds": 0.25,
                     "forecast_seconds": 3.0},
                    {"class": "batch", "queued": 1_230, "oldest_wait_seconds": 61.5,
                     "forecast_seconds": 7_200.0},
                ],
                "tenants": [
                    {"class": "batch", "tenant": "night\u{1b}[31m", "queued": 1_230,
                     "oldest_wait_seconds": 61.5},
                ],
                "constraints": [
                    {"unit": "requests", "window": "minute", "mode": "bucket", "limit": 120,
                     "learned": true, "available": 60, "held": 0, "resets_in_seconds": 30.0,
                     "exhausted_at": "2031-02-03T04:05:06Z"},
                    {"unit": "tokens", "window": "minute", "mode": "sliding", "limit": 1_500_000,
                     "available": -2_000, "held": 90_000, "resets_in_seconds": 59.0,
                     "exhausted_at": "2031-02-03T04:05:06Z"},
                ],
            },
        ],
        "today": {"tenants": [
            {"tenant": "night", "tokens": 1_234_567, "requests": 890, "refused": 7},
        ]},
        "refusals": [
            {"at": "2031-02-03T04:05:06.789Z", "tenant": "day", "model": "busy", "status": 429,
             "source": "gateway", "reason": "wait_exceeded", "limited_by": "tokens/minute"},
            {"at": "2031-02-03T04:05:05Z", "source": "gateway", "reason": "unauthorized"},
        ],
        "batches": [
            {"batch": "batch_0123456789abcdef", "tenant": "night", "status": "in_progress",
             "total": 50_000, "completed": 12_300, "failed": 200},
        ],
    }))
    .unwrap()
}

fn view() -> View {
    let mut view = View::new("http://127.0.0.1:9464");
    view.update(snapshot());
    view
}

fn press(view: &mut View, code: KeyCode) -> Option<Action> {
    view.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn drawn(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, view, Theme::Colours)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn everything_that_the_gateway_says_is_shown() {
    let text = print(&view(), 130);
    for shown in [
        "Tidegate 1.2.3 · http://127.0.0.1:9464 · 1,300 requests, 1,234 of them waiting · 40 connections\n",
        "── busy (profile large, pool 00000002, 2 of 2) · 3 at the upstream · waits for tokens/minute\n",
        "  requests/minute ████████████████████···················· 50 % 60",
        " 50 % 60 of 120 left, full in 30 s, NOTHING LEFT at 04:05 UTC  bucket, learned\n",
        "▶ tokens/minute   ████████████████████████████████████████ ",
        "100 % 2,000 over 1,500,000, 90,000 held, full in 59 s  sliding\n",
        "  interactive                            4     0.2 s     3.0 s\n",
        "  batch                              1,230      62 s     2.0 h\n",
        "    night\u{fffd}[31m                       1,230      62 s\n",
        "All pools █ 1,234 at most\n",
        "  batch_01234567… ██████████",
        "  upstream        2,345 answered, 2 failed, 0 refused in the last 5 min, last by timeout\n",
        "  night                                1,234,567       890        7\n",
        "  04:05:06  wait_exceeded by the gateway for tokens/minute, tenant day, model busy\n",
        "  04:05:05  unauthorized by the gateway\n",
        " 25 % 12,500 of 50,000, 200 failed  in_progress of night\n",
    ] {
        assert!(text.contains(shown), "{shown:?} is missing in\n{text}");
    }
}

#[test]
fn the_busiest_pool_is_shown_until_another_is_chosen() {
    let mut view = view();
    let name = |view: &View| view.pool().unwrap().0.model.clone();
    assert_eq!(name(&view), "busy");
    press(&mut view, KeyCode::Tab);
    assert_eq!(name(&view), "quiet");
    press(&mut view, KeyCode::Left);
    assert_eq!(name(&view), "busy");
    // It stays chosen wherever it stands, however little it has to do.
    let mut later = snapshot();
    later.pools[1].queued = 0;
    later.pools[1].in_flight = 0;
    later.pools[0].queued = 9;
    later.pools.reverse();
    view.update(later);
    assert_eq!(name(&view), "busy");
    let mut without = snapshot();
    without.pools.pop();
    view.update(without);
    assert_eq!(name(&view), "quiet");
    view.update(serde_json::from_str("{}").unwrap());
    assert!(print(&view, 100).contains("No request has come yet."));
    assert_eq!(press(&mut view, KeyCode::Tab), Some(Action::Draw));
}

#[test]
fn a_paused_view_stays_and_a_lost_gateway_is_said() {
    let mut view = view();
    press(&mut view, KeyCode::Char('p'));
    view.update(serde_json::from_str("{}").unwrap());
    let text = print(&view, 100);
    assert!(text.contains("PAUSED") && text.contains("busy"), "{text}");
    press(&mut view, KeyCode::Char('p'));
    view.fail("no answer", Duration::from_secs(75));
    let text = print(&view, 100);
    assert!(text.contains("NOT LIVE for 75 s: no answer") && text.contains("busy"), "{text}");
    view.update(snapshot());
    assert!(!print(&view, 100).contains("NOT LIVE"));
    let mut new = View::new("http://127.0.0.1:1");
    assert!(print(&new, 100).contains("asking"));
    new.fail("refused", Duration::ZERO);
    assert!(print(&new, 100).ends_with("http://127.0.0.1:1\nrefused\n"));
}

#[test]
fn keys_leave_and_explain() {
    let mut view = view();
    assert_eq!(press(&mut view, KeyCode::Char('x')), None);
    assert_eq!(press(&mut view, KeyCode::Char('?')), Some(Action::Draw));
    assert!(drawn(&view, 100, 30).contains("the next pool"));
    // The first closes the help.
    assert_eq!(press(&mut view, KeyCode::Esc), Some(Action::Draw));
    assert_eq!(press(&mut view, KeyCode::Esc), Some(Action::Quit));
    assert_eq!(press(&mut view, KeyCode::Char('q')), Some(Action::Quit));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(view.press(interrupt), Some(Action::Quit));
}

#[test]
fn what_does_not_fit_is_said() {
    let text = drawn(&view(), 100, 10);
    assert!(text.contains("more lines: a taller terminal shows them"), "{text}");
    assert!(text.contains("q quit"), "{text}");
    assert!(!drawn(&view(), 100, 40).contains("more lines"));
}

fn client() -> Client {
    Client::new(&[], None, Duration::from_secs(1)).unwrap()
}

#[test]
fn addresses_are_taken_in_the_forms_that_people_write() {
    for (given, asked) in [
        ("http://127.0.0.1:9464", "http://127.0.0.1:9464"),
        ("http://127.0.0.1:9464/", "http://127.0.0.1:9464"),
        ("http://127.0.0.1:9464/status", "http://127.0.0.1:9464"),
        ("localhost:9464", "http://localhost:9464"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ] {
        assert_eq!(Feed::new(given, client()).unwrap().url(), asked, "{given}");
    }
    for bad in ["", "ftp://host", "http://", "https://", "/status", "file:///etc/passwd", "a b"] {
        let error = Feed::new(bad, client()).unwrap_err().to_string();
        assert!(error.contains("https://HOST:PORT is expected"), "{bad}: {error}");
    }
}

proptest! {
    /// Whatever the numbers are and however small the terminal is, it is drawn.
    #[test]
    fn anything_can_be_drawn(
        limit in any::<u64>(), available in any::<i64>(), held in any::<u64>(),
        seconds in any::<f64>(), total in any::<u64>(), completed in any::<u64>(),
        failed in any::<u64>(), queued in any::<u64>(), name in any::<String>(),
        width in 1_u16..200, height in 1_u16..60,
    ) {
        let mut snapshot = snapshot();
        let pool = &mut snapshot.pools[1];
        pool.queued = queued / 2;
        pool.model.clone_from(&name);
        pool.classes[0].queued = queued;
        pool.classes[0].class = name;
        let constraint = &mut pool.constraints[0];
        (constraint.limit, constraint.available, constraint.held) = (limit, available, held);
        constraint.resets_in_seconds = seconds;
        let batch = &mut snapshot.batches[0];
        (batch.total, batch.completed, batch.failed) = (total, completed, failed);
        let mut view = View::new("http://127.0.0.1:9464");
        view.update(snapshot);
        drawn(&view, width, height);
        prop_assert!(!print(&view, usize::from(width)).contains(|c: char| c.is_control() && c != '\n'));
    }
}
