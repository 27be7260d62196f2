//! Three replicas and a log that delays, repeats nothing and loses replies: whatever happens, they
//! agree, nobody overshoots, and nothing stays held.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limit::{Mode, Spent};

const LIMIT: u64 = 1_000;

fn quotas() -> Vec<Constraint> {
    let minute = Duration::from_secs(60);
    let quota = |unit, limit, window, name, mode| {
        Constraint::new(unit, limit, window, name, mode).expect("a constraint")
    };
    vec![
        quota(Unit::Tokens, LIMIT, minute, "minute", Mode::Bucket),
        quota(Unit::Tokens, 5 * LIMIT, 60 * minute, "hour", Mode::Sliding),
        quota(Unit::Requests, 40, minute, "minute", Mode::Fixed { skew: Duration::ZERO }),
    ]
}

fn turn() -> Turn {
    Turn { class: 0, tenant: 1, weight: NonZeroU32::MIN, fair: 1, tag: 0 }
}

#[derive(Debug)]
struct Line {
    owner: u64,
    number: u64,
    at: Timestamp,
    bytes: Option<Vec<u8>>,
}

/// A replica, what it has read of the log, and what is on its way there.
#[derive(Debug)]
struct Node {
    replica: Replica,
    read: usize,
    number: u64,
    outbox: Vec<(u64, Vec<u8>)>,
    open: Vec<(u64, Cost)>,
    /// What it asks for.
    asked: Vec<(u64, Cost)>,
    heard: usize,
}

#[derive(Debug)]
struct World {
    log: Vec<Line>,
    nodes: Vec<Node>,
    now: Timestamp,
    next: u64,
}

impl World {
    fn new(float: bool) -> Self {
        let now = Timestamp::from_nanos(3_600_000_000_000);
        let mut world = Self { log: Vec::new(), nodes: Vec::new(), now, next: 0 };
        (0..3).for_each(|_| world.join(float));
        // The first word is what the limits are.
        world.ask(0, true);
        (0..3).for_each(|index| world.read(index, usize::MAX));
        world
    }

    fn join(&mut self, float: bool) {
        self.next += 1;
        let sharing = Sharing { own: self.next, float, replicas: 3 };
        let mut replica = Replica::new(sharing, quotas(), ColdStart::Full, self.now);
        replica.load(None, 0, self.now).expect("nothing to read");
        self.nodes.push(Node {
            replica,
            read: 0,
            number: 0,
            outbox: Vec::new(),
            open: Vec::new(),
            asked: Vec::new(),
            heard: 0,
        });
    }

    /// Has a replica read so many lines more.
    fn read(&mut self, index: usize, most: usize) {
        let Node { replica, read, heard, asked, .. } = &mut self.nodes[index];
        let news = self.log.iter().skip(*read).take(most).any(|it| it.owner != replica.own());
        if news && !asked.is_empty() {
            // It was decided by something else.
            replica.give_up();
            asked.clear();
        }
        for line in self.log.iter().skip(*read).take(most) {
            let name = (line.owner, line.number);
            match &line.bytes {
                Some(bytes) => {
                    replica.apply(name, line.at, bytes, |_| *heard += 1).expect("readable");
                }
                None => replica.gone(line.owner, line.at, |_| *heard += 1),
            }
            *read += 1;
        }
        if *read == self.log.len() {
            replica.heard_of(self.now);
        }
    }

    /// Has what a replica told appended.
    fn flush(&mut self, index: usize) {
        let Node { replica, outbox, number, .. } = &mut self.nodes[index];
        if replica.is_alone() {
            return;
        }
        replica.tell(self.now, |bytes| {
            *number += 1;
            outbox.push((*number, bytes));
            Some(*number)
        });
        let (owner, at) = (replica.own(), self.now);
        let lines =
            outbox.drain(..).map(|(number, bytes)| Line { owner, number, at, bytes: Some(bytes) });
        self.log.extend(lines);
    }

    /// Has a replica ask, if it wants to; the reply arrives or not.
    fn ask(&mut self, index: usize, arrives: bool) {
        let is_current = self.nodes[index].read == self.log.len();
        // As it was when it was decided: what it tells goes first.
        let question = self.nodes[index].replica.question(self.now);
        self.flush(index);
        let Some(bytes) = question else { return };
        if is_current {
            let node = &mut self.nodes[index];
            node.number += 1;
            let (owner, number) = (node.replica.own(), node.number);
            self.log.push(Line { owner, number, at: self.now, bytes: Some(bytes) });
        }
        if is_current && arrives {
            self.read(index, usize::MAX);
            let node = &mut self.nodes[index];
            node.replica.taken();
            node.open.append(&mut node.asked);
        } else {
            let node = &mut self.nodes[index];
            node.replica.give_up();
            node.asked.clear();
            if arrives {
                self.read(index, usize::MAX);
            }
        }
    }

    fn take(&mut self, index: usize, tokens: u64) -> Result<Taken, Denied> {
        let (cost, node) = (Cost::new(1, tokens), &mut self.nodes[index]);
        let taken = node.replica.take(cost, false, turn(), self.now)?;
        match taken {
            Taken::Free(id) => node.open.push((id, cost)),
            Taken::Asked(id) => node.asked.push((id, cost)),
        }
        Ok(taken)
    }

    fn end(&mut self, index: usize, which: usize, percent: u64) {
        let node = &mut self.nodes[index];
        if node.open.is_empty() {
            return;
        }
        let (id, cost) = node.open.swap_remove(which % node.open.len());
        let used = Cost::new(1, cost.tokens * percent / 100);
        node.replica.charged(id, self.now);
        node.replica.end(id, used, Duration::from_millis(50), None, self.now);
    }

    /// A replica dies, and another one begins by a snapshot of a third.
    fn replace(&mut self, index: usize, float: bool) {
        let owner = self.nodes[index].replica.own();
        self.nodes.remove(index);
        self.log.push(Line { owner, number: 0, at: self.now, bytes: None });
        self.join(float);
        let (snapshot, read) = (self.nodes[0].replica.save(), self.nodes[0].read);
        let node = self.nodes.last_mut().expect("it joined");
        node.replica.load(Some(&snapshot), 0, self.now).expect("readable");
        node.replica.mend();
        node.read = read;
    }

    /// The log's server loses it all, and has it again from a replica.
    fn reassert(&mut self, index: usize) {
        self.read(index, usize::MAX);
        let snapshot = self.nodes[index].replica.save();
        for node in &mut self.nodes {
            let version = node.number - node.outbox.len() as u64;
            node.replica.load(Some(&snapshot), version, self.now).expect("readable");
            node.read = self.log.len();
            node.replica.give_up();
            node.asked.clear();
            node.replica.mend();
        }
    }

    /// Everything is delivered.
    fn settle(&mut self) {
        for _ in 0..4 {
            for index in 0..self.nodes.len() {
                self.ask(index, true);
            }
            (0..self.nodes.len()).for_each(|index| self.read(index, usize::MAX));
        }
    }

    /// The least level of any replica's common ledger.
    fn least(&mut self) -> i64 {
        let mut least = i64::MAX;
        for node in &mut self.nodes {
            let common = &mut node.replica.common.twin;
            let at = common.at;
            let levels: Vec<_> = common.ledger.levels(at).map(|it| it.available).collect();
            least = levels.into_iter().fold(least, i64::min);
        }
        least
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Take(usize, u64),
    Flush(usize),
    Ask(usize, bool),
    Read(usize, usize),
    End(usize, usize, u64),
    Observe(usize, u64),
    Replace(usize),
    Reassert(usize),
    Alone(usize),
    Back(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..3_usize;
    prop_oneof![
        3 => (1..2_000_u64).prop_map(Step::Wait),
        8 => (who.clone(), 1..200_u64).prop_map(|(who, tokens)| Step::Take(who, tokens)),
        4 => who.clone().prop_map(Step::Flush),
        6 => (who.clone(), prop::bool::weighted(0.9)).prop_map(|(who, ok)| Step::Ask(who, ok)),
        4 => (who.clone(), 1..4_usize).prop_map(|(who, most)| Step::Read(who, most)),
        6 => (who.clone(), 0..9_usize, 0..100_u64).prop_map(|(a, b, c)| Step::End(a, b, c)),
        1 => (who.clone(), 0..LIMIT).prop_map(|(who, left)| Step::Observe(who, left)),
        1 => who.clone().prop_map(Step::Replace),
        1 => who.clone().prop_map(Step::Reassert),
        1 => who.clone().prop_map(Step::Alone),
        2 => who.prop_map(Step::Back),
    ]
}

fn run(world: &mut World, step: &Step, float: bool) {
    let now = world.now;
    match *step {
        Step::Wait(millis) => world.now = now.after(Duration::from_millis(millis)),
        Step::Take(index, tokens) => drop(world.take(index, tokens)),
        Step::Flush(index) => world.flush(index),
        Step::Ask(index, arrives) => world.ask(index, arrives),
        Step::Read(index, most) => world.read(index, most),
        Step::End(index, which, percent) => world.end(index, which, percent),
        Step::Observe(index, remaining) => {
            let node = &mut world.nodes[index];
            let reading = Reading {
                unit: Unit::Tokens,
                window: "minute",
                limit: Some(LIMIT),
                remaining: Some(remaining),
            };
            if let Some((id, _)) = node.open.first() {
                node.replica.charged(*id, now);
                node.replica.observe(*id, [reading].into_iter(), now);
            }
        }
        Step::Replace(index) => world.replace(index, float),
        Step::Reassert(index) => world.reassert(index),
        Step::Alone(index) => {
            let node = &mut world.nodes[index];
            // Whoever loses the log has its answer before, one way or the other.
            node.replica.give_up();
            node.asked.clear();
            node.replica.leave(now);
        }
        Step::Back(index) => {
            world.nodes[index].replica.come_back();
            world.nodes[index].replica.resume();
        }
    }
}

proptest! {
    /// Whatever happens and in whatever order it is heard of, all have the same in the end; and
    /// nothing is held when everything has ended.
    #[test]
    fn all_agree_and_nothing_stays_held(
        float in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(float);
        for step in steps {
            run(&mut world, &step, float);
        }
        world.nodes.iter_mut().for_each(|node| {
            node.replica.come_back();
            node.replica.resume();
        });
        world.settle();
        let states: Vec<_> = world.nodes.iter().map(|node| node.replica.save()).collect();
        prop_assert!(states.iter().all(|state| *state == states[0]), "they differ");
        for index in 0..3 {
            while !world.nodes[index].open.is_empty() {
                world.end(index, 0, 50);
            }
        }
        world.settle();
        world.now = world.now.after(Duration::from_secs(1));
        for node in &mut world.nodes {
            let (common, at) = (&mut node.replica.common.twin, world.now);
            common.end(at);
            prop_assert!(common.open.is_empty(), "{:?}", common.open);
            prop_assert!(node.replica.open.is_empty());
        }
    }

    /// Nobody ever lets go more than there is, as long as all have their log, whatever is delayed by
    /// less than the time that is allowed for, and whoever does not ask first.
    #[test]
    fn nobody_overshoots(
        float in any::<bool>(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(float);
        let mut since = 0;
        for step in steps {
            match step {
                Step::Alone(_) | Step::Back(_) | Step::Observe(..) | Step::Replace(_) => continue,
                // Everything is heard of in time.
                Step::Wait(millis) if float => {
                    since += millis;
                    if since >= 100 {
                        world.settle();
                        since = 0;
                    }
                    world.now = world.now.after(Duration::from_millis(millis));
                }
                // What is told late counts late: to all, but not to who decides meanwhile.
                Step::End(index, ..) => {
                    run(&mut world, &step, float);
                    world.flush(index);
                }
                step => run(&mut world, &step, float),
            }
            let least = world.least();
            prop_assert!(least >= 0, "{least}");
        }
        world.settle();
        prop_assert!(world.least() >= 0);
    }

    /// What one ledger decides, three replicas decide, whoever of them is asked.
    #[test]
    fn replicas_decide_as_one_ledger_does(
        steps in prop::collection::vec(
            (0..3_usize, 0..4_u8, 1..400_u64, 1..5_000_u64),
            1..100,
        ),
    ) {
        let mut world = World::new(false);
        let mut ledger = Ledger::new(quotas(), world.now);
        let mut open = Vec::new();
        for (index, kind, tokens, millis) in steps {
            world.now = world.now.after(Duration::from_millis(millis));
            let now = world.now;
            if kind < 3 {
                let one = ledger.hold(Cost::new(1, tokens), now);
                let many = world.take(index, tokens);
                prop_assert_eq!(one.as_ref().err(), many.as_ref().err());
                if let (Ok(hold), Ok(_)) = (one, many) {
                    world.ask(index, true);
                    let (id, cost) = world.nodes[index].open.pop().expect("taken");
                    open.push((index, id, cost, hold.sent()));
                }
            } else if !open.is_empty() {
                let (index, id, cost, mut sent) = open.swap_remove(index % open.len());
                let used = Cost::new(1, cost.tokens / 2);
                ledger.charged(&mut sent, now);
                ledger.settle(sent, Spent::Exact(used), now);
                let replica = &mut world.nodes[index].replica;
                replica.charged(id, now);
                replica.end(id, used, Duration::ZERO, None, now);
                world.flush(index);
            }
            (0..3).for_each(|index| world.read(index, usize::MAX));
        }
    }

    /// What waits for a log for long is made short, and comes to the same.
    #[test]
    fn what_waits_for_long_comes_to_the_same(
        takes in prop::collection::vec((1..50_u64, any::<bool>()), 1..60),
    ) {
        let mut world = World::new(false);
        world.nodes[0].replica.leave(world.now);
        let mut spent = 0;
        for (tokens, ends) in takes {
            if world.take(0, tokens).is_ok() {
                spent += tokens;
                if ends {
                    spent -= tokens - tokens / 2;
                    let last = world.nodes[0].open.len() - 1;
                    world.end(0, last, 50);
                }
            }
        }
        world.nodes[0].replica.shorten();
        world.nodes[0].replica.come_back();
        world.nodes[0].replica.resume();
        world.settle();
        world.now = world.now.after(Duration::from_secs(1));
        let now = world.now;
        let (ledger, at, _) = world.nodes[1].replica.ledger(now);
        let level = ledger.levels(at).nth(1).expect("a window").available;
        let least = i64::try_from(5 * LIMIT - spent).expect("small");
        // What was rounded down when it ended.
        prop_assert!((least..least + 60).contains(&level), "{level} {least}");
    }
}

#[test]
fn while_there_is_plenty_nobody_is_asked_and_then_everybody() {
    let mut world = World::new(true);
    let mut free = 0;
    while let Ok(Taken::Free(_)) = world.take(0, 20) {
        free += 20;
    }
    assert_eq!(free, 20, "of forty requests each may have one that nobody knows of");
    world.ask(0, true);
    (0..3).for_each(|index| world.read(index, usize::MAX));
    assert!(matches!(world.take(0, 20), Ok(Taken::Free(_))), "the others know");
    for _ in 0..20 {
        world.flush(0);
        world.read(0, usize::MAX);
        assert!(world.take(0, 20).is_ok());
        world.ask(0, true);
    }
    assert!(matches!(world.take(0, 1), Ok(Taken::Asked(_))), "half of it is gone");
}

#[test]
fn alone_it_goes_on_with_its_share_and_no_more() {
    let mut world = World::new(false);
    let replica = &mut world.nodes[0].replica;
    replica.leave(world.now);
    let mut gone = 0;
    while world.take(0, 10).is_ok() {
        gone += 10;
    }
    // Requests bind: 40 of them, by three, less a tenth.
    assert_eq!(gone, 120);
    while !world.nodes[0].open.is_empty() {
        world.end(0, 0, 100);
    }
    world.now = world.now.after(Duration::from_secs(60));
    let mut more = 0;
    while world.take(0, 60).is_ok() {
        more += 60;
    }
    // Tokens do: a minute's share, full again.
    assert_eq!(more, 300);
    assert!(matches!(world.take(0, 301), Err(Denied::Wait { .. })), "not above the limit");
}

/// During a change of the configuration replicas with other limits run side by side: the one that
/// began last decides, once, and what is held stays held.
#[test]
fn of_two_configurations_the_later_one_is_kept_to() {
    let mut world = World::new(false);
    assert!(world.take(0, 100).is_ok());
    world.ask(0, true);
    let mut quotas = quotas();
    quotas[0] =
        Constraint::new(Unit::Tokens, LIMIT / 2, Duration::from_secs(60), "minute", Mode::Bucket)
            .expect("a constraint");
    world.join(false);
    let (snapshot, read) = (world.nodes[0].replica.save(), world.nodes[0].read);
    let sharing = Sharing { own: world.next, float: false, replicas: 4 };
    let node = world.nodes.last_mut().expect("it joined");
    node.replica = Replica::new(sharing, quotas, ColdStart::Full, world.now);
    node.replica.load(Some(&snapshot), 0, world.now).expect("readable");
    node.read = read;
    world.ask(3, true);
    let length = world.log.len();
    for _ in 0..3 {
        for index in 0..4 {
            world.read(index, usize::MAX);
            world.ask(index, true);
        }
    }
    assert_eq!(world.log.len(), length, "nobody contradicts");
    let now = world.now;
    for node in &mut world.nodes {
        let (ledger, at, _) = node.replica.ledger(now);
        let first = ledger.levels(at).next().map(|it| (it.quota.limit(), it.held));
        assert_eq!(first, Some((LIMIT / 2, 100)));
    }
}

/// A replica that is configured in another way while it runs tells the others, once, and all keep to
/// that; those that are configured so later have nothing to say.
#[test]
fn a_replica_that_is_configured_anew_tells_the_others() {
    let mut world = World::new(false);
    assert!(world.take(0, 100).is_ok());
    world.ask(0, true);
    (0..3).for_each(|index| world.read(index, usize::MAX));
    let mut next = quotas();
    next[0] =
        Constraint::new(Unit::Tokens, LIMIT * 2, Duration::from_secs(60), "minute", Mode::Bucket)
            .expect("a constraint");
    next.reverse();
    let replica = &mut world.nodes[1].replica;
    replica.reconfigure(&next, ColdStart::Full);
    assert!(replica.has_to_announce() && replica.is_urgent());
    world.ask(1, true);
    let length = world.log.len();
    for index in 0..3 {
        world.read(index, usize::MAX);
        world.nodes[index].replica.reconfigure(&next, ColdStart::Full);
        assert!(!world.nodes[index].replica.has_to_announce(), "it is known");
        world.ask(index, true);
    }
    assert_eq!(world.log.len(), length, "nobody repeats it");
    let now = world.now;
    for node in &mut world.nodes {
        let (ledger, at, _) = node.replica.ledger(now);
        let levels: Vec<_> = ledger.levels(at).collect();
        let last = levels.last().map(|it| (it.quota.limit(), it.held, it.available));
        let left = i64::try_from(LIMIT * 2 - 100).expect("small");
        assert_eq!(last, Some((LIMIT * 2, 100, left)));
    }
}
