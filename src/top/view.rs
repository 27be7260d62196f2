//! What is shown: the last answer, what came before it, and the part that is looked at.

use std::collections::VecDeque;
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::snapshot::{Pool, Snapshot};

/// Answers that are remembered for the line of what has waited: as many as a wide terminal shows.
const MOST_PAST: usize = 240;

/// Everything that the screen is drawn from.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub(super) url: String,
    /// The last answer there was.
    pub(super) snapshot: Option<Snapshot>,
    /// Why there was none since, and for how long.
    pub(super) trouble: Option<(String, Duration)>,
    /// Requests waiting in all pools, the newest last.
    pub(super) waiting: VecDeque<u64>,
    /// The name of the pool that is looked at, so that it stays when others come and go.
    chosen: Option<String>,
    pub(super) paused: bool,
    pub(super) help: bool,
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// To draw again.
    Draw,
    Quit,
}

impl View {
    /// One of the gateway at `url`, which has not answered yet.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    /// Takes an answer.
    pub fn update(&mut self, snapshot: Snapshot) {
        self.trouble = None;
        if self.paused {
            return;
        }
        if self.waiting.len() == MOST_PAST {
            self.waiting.pop_front();
        }
        self.waiting.push_back(snapshot.pools.iter().map(|pool| pool.queued).sum());
        self.snapshot = Some(snapshot);
    }

    /// Takes that there was none, for as long as `since` now.
    pub fn fail(&mut self, why: impl std::fmt::Display, since: Duration) {
        self.trouble = Some((why.to_string(), since));
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(key.code, KeyCode::Char('c' | 'd')).then_some(Action::Quit);
        }
        match key.code {
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Tab | KeyCode::Right | KeyCode::Down | KeyCode::Char('l' | 'j') => {
                self.step(1);
            }
            KeyCode::BackTab | KeyCode::Left | KeyCode::Up | KeyCode::Char('h' | 'k') => {
                self.step(-1);
            }
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('?') | KeyCode::F(1) => self.help = !self.help,
            _ => return None,
        }
        Some(Action::Draw)
    }

    fn pools(&self) -> &[Pool] {
        self.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.pools)
    }

    /// The pool that is looked at, its place from 0, and how many there are.
    pub(super) fn pool(&self) -> Option<(&Pool, usize, usize)> {
        let (pools, at) = (self.pools(), self.place());
        pools.get(at).map(|pool| (pool, at, pools.len()))
    }

    /// The chosen pool's place; before anybody has chosen, that of the busiest.
    fn place(&self) -> usize {
        let pools = self.pools();
        let chosen = self.chosen.as_ref();
        chosen.and_then(|name| pools.iter().position(|pool| pool.pool == *name)).unwrap_or_else(
            || {
                let busy = |pool: &Pool| pool.queued + pool.in_flight;
                // Of equals the first, not the last as `max_by_key` has it.
                let most = pools.iter().map(busy).max();
                pools.iter().position(|pool| Some(busy(pool)) == most).unwrap_or(0)
            },
        )
    }

    fn step(&mut self, by: isize) {
        let count = self.pools().len();
        if count > 0 {
            let at = self.place().checked_add_signed(by).unwrap_or(count - 1) % count;
            self.chosen = self.pools().get(at).map(|pool| pool.pool.clone());
        }
    }
}
