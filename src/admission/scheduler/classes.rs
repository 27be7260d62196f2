//! Which class goes next: one that is behind its guarantee, else the one of the best rank.
//!
//! While requests of a class wait, every token that any class sends makes the class's share of it
//! *due*; what the class sends is taken off. A class is behind while something is due to it.
//!
//! # Invariants
//!
//! - While a class waits it is sent at least its share of all that is sent, less two requests: see
//!   `the_guarantee_holds_while_a_class_waits`.
//! - What a class gets by its rank pays what is due to it, but never puts it in debt: rank is not
//!   held against a guarantee. What it gets ahead of a better rank does.
//! - Nothing becomes due to a class in which nobody waits, and what was due is forgotten when the
//!   last one leaves; a debt is not, or coming one by one would be a way around the ranks.

/// Shares are in thousandths.
const WHOLE: i128 = 1_000;

/// How a class stands against the others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClassRule {
    /// Lower ranks go first.
    pub rank: u32,
    /// The guaranteed share, in thousandths; the shares of all classes come to 1,000 at most.
    pub share: u16,
    /// Whether its requests can wait: they keep to the spread of long windows.
    pub paced: bool,
}

#[derive(Debug)]
pub(super) struct Classes {
    all: Vec<Account>,
    by_rank: Vec<usize>,
}

#[derive(Debug)]
struct Account {
    share: i128,
    /// Thousandths of tokens that the class is behind its guarantee; below zero if it is ahead.
    due: i128,
    waiting: usize,
    /// Replicas at which somebody of the class goes first.
    elsewhere: usize,
    paced: bool,
    /// Whether it is passed over: its requests would have to wait for longer than others need to.
    held_back: bool,
}

/// What a dispatch took off what was due to its class.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Paid {
    by_rank: bool,
    units: i128,
}

/// The indexes of classes, best rank first.
fn by_rank(rules: &[ClassRule]) -> Vec<usize> {
    let mut by_rank: Vec<_> = (0..rules.len()).collect();
    by_rank.sort_by_key(|index| rules[*index].rank);
    by_rank
}

impl Classes {
    pub(super) fn new(rules: &[ClassRule]) -> Self {
        let account = |rule: &ClassRule| Account {
            share: rule.share.into(),
            due: 0,
            waiting: 0,
            elsewhere: 0,
            paced: rule.paced,
            held_back: false,
        };
        Self { all: rules.iter().map(account).collect(), by_rank: by_rank(rules) }
    }

    /// Other rules for the same classes. What is due to them by now stays due.
    pub(super) fn reconfigure(&mut self, rules: &[ClassRule]) {
        for (account, rule) in self.all.iter_mut().zip(rules) {
            (account.share, account.paced) = (rule.share.into(), rule.paced);
        }
        self.by_rank = by_rank(rules);
    }

    pub(super) fn joined(&mut self, class: usize) {
        self.all[class].waiting += 1;
    }

    pub(super) fn left(&mut self, class: usize) {
        let account = &mut self.all[class];
        account.waiting -= 1;
        account.forget();
    }

    /// Somebody of the class goes first at another replica.
    pub(super) fn joined_elsewhere(&mut self, class: usize) {
        self.all[class].elsewhere += 1;
    }

    /// Not any more.
    pub(super) fn left_elsewhere(&mut self, class: usize) {
        let account = &mut self.all[class];
        account.elsewhere -= 1;
        account.forget();
    }

    pub(super) fn is_paced(&self, class: usize) -> bool {
        self.all[class].paced
    }

    /// Passes a class over until [`Self::let_all_go`].
    pub(super) fn hold_back(&mut self, class: usize) {
        self.all[class].held_back = true;
    }

    pub(super) fn let_all_go(&mut self) {
        self.all.iter_mut().for_each(|account| account.held_back = false);
    }

    /// Whose turn it is, of those who wait here.
    pub(super) fn next(&self) -> Option<usize> {
        self.first_of(|| self.waiting_by_rank())
    }

    /// Whose turn it is, wherever they wait.
    pub(super) fn next_anywhere(&self) -> Option<usize> {
        self.first_of(|| self.all_by_rank())
    }

    fn first_of<I: Iterator<Item = usize>>(&self, waiting: impl Fn() -> I) -> Option<usize> {
        let mut behind: Option<usize> = None;
        for class in waiting() {
            let due = self.all[class].due;
            if due > 0 && behind.is_none_or(|other| due > self.all[other].due) {
                behind = Some(class);
            }
        }
        behind.or_else(|| waiting().next())
    }

    pub(super) fn is_behind(&self, class: usize) -> bool {
        self.all.get(class).is_some_and(|account| account.waiting > 0 && account.due > 0)
    }

    /// The classes in which someone waits and that are not passed over, best rank first.
    pub(super) fn waiting_by_rank(&self) -> impl Iterator<Item = usize> {
        self.all_by_rank().filter(|class| self.all[*class].waiting > 0)
    }

    /// The same, of those who wait elsewhere as well.
    fn all_by_rank(&self) -> impl Iterator<Item = usize> {
        self.by_rank.iter().copied().filter(|class| self.all[*class].is_waiting())
    }

    /// A request of `class` goes; to be told before it has [`Self::left`]. `owes`: by its rank alone it
    /// would not have gone yet.
    pub(super) fn dispatched(&mut self, class: usize, tokens: u64, owes: bool) -> Paid {
        let by_rank = !owes && self.all_by_rank().next().is_none_or(|first| first == class);
        self.accrue(tokens.into());
        let account = &mut self.all[class];
        let whole = WHOLE * i128::from(tokens);
        let units = if by_rank { whole.min(account.due.max(0)) } else { whole };
        account.due -= units;
        Paid { by_rank, units }
    }

    /// What was sent for `tokens` turned out to cost `used`.
    pub(super) fn settled(&mut self, class: usize, paid: Paid, tokens: u64, used: u64) {
        self.accrue(i128::from(used) - i128::from(tokens));
        let whole = WHOLE * i128::from(used);
        let owed = if paid.by_rank { whole.min(paid.units) } else { whole };
        let account = &mut self.all[class];
        account.due += paid.units - owed;
        account.forget();
    }

    /// Makes every waiting class's share of `tokens` due; a debt shrinks whether they wait or not.
    fn accrue(&mut self, tokens: i128) {
        for account in &mut self.all {
            // Nothing is due to those who are passed over: they are not kept from going by others.
            if account.is_waiting() || (tokens > 0 && account.due < 0) {
                account.due += account.share * tokens;
                account.forget();
            }
        }
    }
}

impl Account {
    const fn is_waiting(&self) -> bool {
        self.waiting + self.elsewhere > 0 && !self.held_back
    }

    fn forget(&mut self) {
        if self.waiting + self.elsewhere == 0 {
            self.due = self.due.min(0);
        }
    }
}
