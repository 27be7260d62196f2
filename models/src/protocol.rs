//! The protocol between replicas and the server that keeps their log, with everything that can go
//! wrong between them: requests that come late or twice, replies that do not come, a server whose
//! place is taken by an older copy of itself or by an empty one, replicas that die. A message that is
//! lost is one that comes after everything else.
//!
//! One unit of quota is one request at the upstream. Time, snapshots and batches are left out: a
//! replica's state is the list of entries that it has applied, which is what a snapshot stands for.
//!
//! What is assumed: a replica that is alive says what it knows before the grace ends. What is not
//! promised: units that only a dead replica knew of, if the server lost them as well.

use stateright::{Model, Property};

const REPLICAS: usize = 3;

/// A part of the protocol that can be left out.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Part {
    /// A hold is appended only if its replica has seen everything before it.
    Condition,
    /// After the server was replaced, nothing is appended until the replicas were heard.
    Gathering,
    /// Of what replicas bring, the longest is taken.
    MostAdvanced,
    /// Everybody who is alive is waited for.
    Grace,
    /// A number that was appended is not appended again.
    Numbers,
    /// Calls of an epoch that is over are refused.
    EpochCheck,
    /// A hold that was given up, and is in the log nevertheless, is given back: one that is found
    /// there later, and one that was found there before.
    GivenUp,
    /// A reply of an epoch that is over, or to a call that was given up, is not acted on.
    LateReply,
}

impl Part {
    pub const ALL: [Self; 8] = [
        Self::Condition,
        Self::Gathering,
        Self::MostAdvanced,
        Self::Grace,
        Self::Numbers,
        Self::EpochCheck,
        Self::GivenUp,
        Self::LateReply,
    ];
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    replica: u8,
    number: u8,
    /// The number of the hold that this gives back; `None` for a hold.
    settles: Option<u8>,
}

type Log = Vec<Entry>;

fn used(log: &[Entry]) -> usize {
    // What is there twice counts twice, and so it is with a ledger.
    let settles = log.iter().filter(|it| it.settles.is_some()).count();
    (log.len() - settles).saturating_sub(settles)
}

fn last(log: &[Entry], replica: u8) -> u8 {
    log.iter().filter(|it| it.replica == replica).map(|it| it.number).max().unwrap_or(0)
}

/// Of one replica, by number: the holds in `log` that nothing in it gives back.
fn open_holds(log: &[Entry], replica: u8) -> Vec<u8> {
    let own = || log.iter().filter(|it| it.replica == replica);
    let settled = |number| own().any(|it| it.settles == Some(number));
    own().filter(|it| it.settles.is_none() && !settled(it.number)).map(|it| it.number).collect()
}

/// What a server keeps, and its copy gets.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Head {
    /// 0 for nothing.
    epoch: u8,
    log: Log,
    /// The process that wrote it.
    run: u8,
    gather: Option<Gather>,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Gather {
    came: [bool; REPLICAS],
    best: Option<(u8, Log)>,
    own: Log,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Replica {
    alive: bool,
    epoch: u8,
    log: Log,
    number: u8,
    /// Holds that it may still try.
    tries: u8,
    /// The hold that it is asking for.
    asking: Option<u8>,
    /// Holds with which a request is at the upstream.
    real: Vec<u8>,
    outbox: Log,
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Message {
    Append { replica: u8, epoch: u8, seen: u8, entries: Log, hold: Entry },
    Appended { replica: u8, epoch: u8, log: Log, hold: u8 },
    Refused { replica: u8, epoch: u8, log: Option<Log>, hold: u8 },
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct State {
    run: u8,
    epochs: u8,
    server: Head,
    copy: Head,
    replicas: Vec<Replica>,
    network: Vec<Message>,
    failovers: u8,
    crashes: u8,
    doubles: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// A replica asks for a unit.
    Ask(u8),
    /// A message arrives.
    Arrive(Message),
    /// A request arrives, and will again.
    ArriveTwice(Message),
    /// A replica does not wait any longer.
    GiveUp(u8),
    /// An answer of the upstream ends, and its unit is given back.
    Finish(u8),
    /// What was told is appended, and the reply arrives or not.
    Tell(u8, bool),
    /// What was appended is pushed.
    Follow(u8),
    Reassert(u8),
    /// The grace is over, for everybody who is alive.
    Open,
    /// The server's copy catches up.
    Copy,
    /// The copy takes the server's place; or an empty server does.
    Replace {
        empty: bool,
    },
    Crash(u8),
}

/// A world to explore.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub name: &'static str,
    without: Option<Part>,
    limit: usize,
    /// How often each replica may ask.
    tries: &'static [u8],
    failovers: u8,
    crashes: u8,
    doubles: u8,
}

impl Protocol {
    /// Worlds small enough to be explored whole, which have between them what can go wrong.
    pub fn scenes() -> Vec<Self> {
        let base = Self {
            name: "two replicas and a server that stays",
            without: None,
            limit: 1,
            tries: &[1, 1],
            failovers: 0,
            crashes: 0,
            doubles: 1,
        };
        vec![
            Self { name: "a replica that comes again", tries: &[2, 1], doubles: 0, ..base.clone() },
            base.clone(),
            Self { name: "a server replaced", failovers: 1, doubles: 0, ..base.clone() },
            Self { name: "a server replaced, calls twice", failovers: 1, ..base.clone() },
            Self { name: "a server replaced twice", failovers: 2, doubles: 0, ..base.clone() },
            Self {
                name: "three replicas, a server replaced",
                tries: &[1, 1, 0],
                failovers: 1,
                doubles: 0,
                ..base.clone()
            },
            Self {
                name: "three replicas, one dies, a server replaced",
                tries: &[1, 1, 0],
                failovers: 1,
                crashes: 1,
                doubles: 0,
                ..base
            },
        ]
    }

    pub fn without(mut self, part: Part) -> Self {
        self.without = Some(part);
        self
    }

    fn has(&self, part: Part) -> bool {
        self.without != Some(part)
    }

    /// What every call begins with: the server notices that it is not who wrote the head.
    fn notice(&self, state: &mut State) {
        if state.server.run != state.run {
            state.server.run = state.run;
            if self.has(Part::Gathering) {
                state.server.gather = Some(Gather::default());
            } else {
                state.epochs += 1;
                state.server.epoch = state.epochs;
                state.server.gather = None;
            }
        }
    }

    /// Opens a new epoch on the most that is known.
    fn open(&self, state: &mut State) {
        let Some(gather) = state.server.gather.take() else { return };
        if let Some((_, log)) = gather.best {
            state.server.log = log;
        }
        for entry in gather.own {
            self.append(&mut state.server.log, entry);
        }
        state.epochs += 1;
        state.server.epoch = state.epochs;
    }

    fn append(&self, log: &mut Log, entry: Entry) {
        if !self.has(Part::Numbers) || entry.number > last(log, entry.replica) {
            log.push(entry);
        }
    }

    /// The server executes a call.
    fn execute(&self, state: &mut State, message: Message) -> Message {
        let Message::Append { replica, epoch, seen, entries, hold } = message else {
            unreachable!("only calls are executed")
        };
        self.notice(state);
        let number = hold.number;
        let refused = |log| Message::Refused { replica, epoch, log, hold: number };
        let is_current = state.server.epoch == epoch || !self.has(Part::EpochCheck);
        if state.server.gather.is_some() || !is_current {
            return refused(None);
        }
        let log = &mut state.server.log;
        let before = log.len();
        let again = hold.number <= last(log, replica);
        for entry in entries {
            self.append(log, entry);
        }
        if again && self.has(Part::Numbers) {
            // A repeated call: what it did the first time.
            if log.contains(&hold) {
                return Message::Appended { replica, epoch, log: log.clone(), hold: number };
            }
            return refused(Some(log.clone()));
        }
        if usize::from(seen) < before && self.has(Part::Condition) {
            return refused(Some(log.clone()));
        }
        self.append(log, hold);
        Message::Appended { replica, epoch, log: log.clone(), hold: number }
    }

    /// A reply arrives.
    fn receive(&self, state: &mut State, message: Message) {
        let (index, epoch, log, hold, granted) = match message {
            Message::Appended { replica, epoch, log, hold } => {
                (replica, epoch, Some(log), hold, true)
            }
            Message::Refused { replica, epoch, log, hold } => (replica, epoch, log, hold, false),
            Message::Append { .. } => unreachable!("calls go to the server"),
        };
        let replica = &mut state.replicas[usize::from(index)];
        if !replica.alive {
            return;
        }
        let is_late = replica.asking != Some(hold) || replica.epoch != epoch;
        if is_late && self.has(Part::LateReply) {
            return;
        }
        if replica.asking == Some(hold) {
            replica.asking = None;
        }
        if granted && !replica.real.contains(&hold) {
            replica.real.push(hold);
        }
        if let Some(log) = log {
            // What was told went with the call.
            replica.outbox.retain(|entry| entry.number > last(&log, index));
            self.apply(replica, index, log, epoch);
        }
    }

    /// A replica has a newer list.
    fn apply(&self, replica: &mut Replica, index: u8, log: Log, epoch: u8) {
        if epoch == replica.epoch && log.len() <= replica.log.len() {
            return;
        }
        replica.log = log;
        replica.epoch = epoch;
        self.give_back(replica, index);
    }

    /// Holds in the log with which there is nothing at the upstream, nor will be.
    fn give_back(&self, replica: &mut Replica, index: u8) {
        if !self.has(Part::GivenUp) {
            return;
        }
        for hold in open_holds(&replica.log, index) {
            let told = replica.outbox.iter().any(|it| it.settles == Some(hold));
            if !replica.real.contains(&hold) && replica.asking != Some(hold) && !told {
                replica.number += 1;
                let number = replica.number;
                replica.outbox.push(Entry { replica: index, number, settles: Some(hold) });
            }
        }
    }

    fn alive(state: &State) -> impl Iterator<Item = (u8, &Replica)> {
        (0..).zip(&state.replicas).filter(|(_, replica)| replica.alive)
    }

    /// Units at the upstream, but for those that nobody alive can know of.
    fn real(state: &State) -> usize {
        let count = |(index, replica): (u8, &Replica)| {
            let known = |hold: &&u8| {
                let is = |log: &Log| {
                    log.iter().any(|it| {
                        it.replica == index && it.number == **hold && it.settles.is_none()
                    })
                };
                replica.alive
                    || is(&state.server.log)
                    || Self::alive(state).any(|(_, it)| is(&it.log))
            };
            replica.real.iter().filter(known).count()
        };
        (0..).zip(&state.replicas).map(count).sum()
    }

    /// Nothing is under way, everybody knows everything.
    fn is_quiet(state: &State) -> bool {
        state.network.is_empty()
            && state.server.run == state.run
            && state.server.gather.is_none()
            && Self::alive(state).all(|(_, it)| {
                it.asking.is_none()
                    && it.outbox.is_empty()
                    && it.epoch == state.server.epoch
                    && it.log == state.server.log
            })
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let replica = Replica {
            alive: true,
            epoch: 1,
            log: Log::new(),
            number: 0,
            tries: 0,
            asking: None,
            real: Vec::new(),
            outbox: Log::new(),
        };
        let head = Head { epoch: 1, log: Log::new(), run: 1, gather: None };
        vec![State {
            run: 1,
            epochs: 1,
            server: head.clone(),
            copy: head,
            replicas: self
                .tries
                .iter()
                .map(|&tries| Replica { tries, ..replica.clone() })
                .collect(),
            network: Vec::new(),
            failovers: self.failovers,
            crashes: self.crashes,
            doubles: self.doubles,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for message in &state.network {
            actions.push(Action::Arrive(message.clone()));
            if state.doubles > 0 && matches!(message, Message::Append { .. }) {
                actions.push(Action::ArriveTwice(message.clone()));
            }
        }
        for (index, replica) in Self::alive(state) {
            if replica.tries > 0 && replica.asking.is_none() && used(&replica.log) < self.limit {
                actions.push(Action::Ask(index));
            }
            if replica.asking.is_some() {
                actions.push(Action::GiveUp(index));
            } else {
                actions.push(Action::Reassert(index));
                if !replica.outbox.is_empty() {
                    actions.push(Action::Tell(index, true));
                    actions.push(Action::Tell(index, false));
                }
            }
            if !replica.real.is_empty() {
                actions.push(Action::Finish(index));
            }
            actions.push(Action::Follow(index));
            if state.crashes > 0 {
                actions.push(Action::Crash(index));
            }
        }
        actions.push(Action::Open);
        if state.failovers > 0 {
            if state.copy != state.server {
                actions.push(Action::Copy);
            }
            actions.push(Action::Replace { empty: true });
            actions.push(Action::Replace { empty: false });
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        let take = |state: &mut State, message: &Message| {
            let place = state.network.iter().position(|it| it == message).expect("it is there");
            state.network.remove(place);
        };
        match action {
            Action::Ask(index) => {
                let replica = &mut state.replicas[usize::from(index)];
                replica.tries -= 1;
                replica.number += 1;
                replica.asking = Some(replica.number);
                let hold = Entry { replica: index, number: replica.number, settles: None };
                let call = Message::Append {
                    replica: index,
                    epoch: replica.epoch,
                    seen: u8::try_from(replica.log.len()).expect("a short log"),
                    entries: replica.outbox.clone(),
                    hold,
                };
                state.network.push(call);
            }
            Action::Arrive(message) => {
                take(&mut state, &message);
                if matches!(message, Message::Append { .. }) {
                    let reply = self.execute(&mut state, message);
                    state.network.push(reply);
                } else {
                    self.receive(&mut state, message);
                }
            }
            Action::ArriveTwice(message) => {
                state.doubles -= 1;
                let reply = self.execute(&mut state, message);
                state.network.push(reply);
            }
            Action::GiveUp(index) => {
                let replica = &mut state.replicas[usize::from(index)];
                replica.asking = None;
                // It may be in the log already, seen before its reply came.
                self.give_back(replica, index);
            }
            Action::Finish(index) => {
                let replica = &mut state.replicas[usize::from(index)];
                let hold = replica.real.remove(0);
                replica.number += 1;
                let number = replica.number;
                replica.outbox.push(Entry { replica: index, number, settles: Some(hold) });
            }
            Action::Tell(index, is_heard) => {
                self.notice(&mut state);
                let replica = &mut state.replicas[usize::from(index)];
                if state.server.gather.is_some() || state.server.epoch != replica.epoch {
                    return None;
                }
                for entry in replica.outbox.clone() {
                    self.append(&mut state.server.log, entry);
                }
                if is_heard {
                    replica.outbox.clear();
                    let log = state.server.log.clone();
                    self.apply(
                        &mut state.replicas[usize::from(index)],
                        index,
                        log,
                        before.server.epoch,
                    );
                }
            }
            Action::Follow(index) => {
                self.notice(&mut state);
                if state.server.gather.is_some() {
                    // It learns that it is to say what it knows; the state is the same.
                    return Some(state).filter(|state| state != before);
                }
                let (log, epoch) = (state.server.log.clone(), state.server.epoch);
                let replica = &mut state.replicas[usize::from(index)];
                if replica.epoch != epoch && self.has(Part::LateReply) {
                    // Calls of the old epoch are void.
                    replica.asking = None;
                }
                if replica.epoch != epoch {
                    replica.outbox.retain(|entry| entry.number > last(&log, index));
                }
                self.apply(replica, index, log, epoch);
            }
            Action::Reassert(index) => {
                self.notice(&mut state);
                let base = (state.server.epoch, state.server.log.len());
                let gather = state.server.gather.as_mut()?;
                if gather.came[usize::from(index)] {
                    return None;
                }
                gather.came[usize::from(index)] = true;
                let replica = &state.replicas[usize::from(index)];
                let own = (replica.epoch, replica.log.len());
                let best = gather.best.as_ref().map(|(epoch, log)| (*epoch, log.len()));
                let is_best = match best {
                    Some(best) => own > best && self.has(Part::MostAdvanced),
                    None => own > base || !self.has(Part::MostAdvanced),
                };
                if is_best {
                    gather.best = Some((replica.epoch, replica.log.clone()));
                }
                gather.own.extend(replica.outbox.iter().copied());
            }
            Action::Open => {
                let gather = state.server.gather.as_ref()?;
                let all = Self::alive(&state).all(|(index, _)| gather.came[usize::from(index)]);
                let any = gather.came.contains(&true);
                if !any || (!all && self.has(Part::Grace)) || state.server.run != state.run {
                    return None;
                }
                self.open(&mut state);
            }
            Action::Copy => state.copy = state.server.clone(),
            Action::Replace { empty } => {
                state.failovers -= 1;
                state.run += 1;
                state.server = if empty { Head::default() } else { state.copy.clone() };
                state.copy = state.server.clone();
            }
            Action::Crash(index) => {
                state.crashes -= 1;
                let replica = &mut state.replicas[usize::from(index)];
                replica.alive = false;
                replica.asking = None;
                replica.outbox.clear();
                replica.log.clear();
            }
        }
        state.network.sort();
        Some(state).filter(|state| state != before)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no overshoot", |model: &Self, state: &State| {
                Self::real(state) <= model.limit
            }),
            // What the log has in use is in use; what died with its replica counts as spent.
            Property::always("no stuck quota", |_, state: &State| {
                let dead = |index: u8| !state.replicas[usize::from(index)].alive;
                let held = (0..).zip(&state.replicas).map(|(index, replica)| {
                    let open = open_holds(&state.server.log, index);
                    open.iter().filter(|hold| !dead(index) && !replica.real.contains(hold)).count()
                });
                let twice = state
                    .server
                    .log
                    .iter()
                    .enumerate()
                    .any(|(place, entry)| state.server.log[..place].contains(entry));
                !Self::is_quiet(state) || (held.sum::<usize>() == 0 && !twice)
            }),
            Property::always("one order", |_, state: &State| {
                Self::alive(state).all(|(_, one)| {
                    Self::alive(state).all(|(_, other)| {
                        let common = one.log.len().min(other.log.len());
                        one.epoch != other.epoch || one.log[..common] == other.log[..common]
                    })
                })
            }),
        ]
    }
}
