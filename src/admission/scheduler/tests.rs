use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn entry(class: usize, tenant: u64, weight: u32, fair: u64, deadline: u64) -> Entry {
    let cost = Cost::new(1, 2 * fair);
    let weight = NonZeroU32::new(weight).unwrap();
    Entry { fair, bytes: 3, class, tenant, weight, ..Entry::new(cost, at(0), at(deadline)) }
}

fn rules(shares: &[u16]) -> Vec<ClassRule> {
    (0..).zip(shares).map(|(rank, share)| ClassRule { rank, share: *share, paced: false }).collect()
}

/// The head goes.
fn go<T>(scheduler: &mut Scheduler<T>) -> Departure<T> {
    let (ticket, _) = scheduler.head().expect("someone waits");
    scheduler.dispatch(ticket).expect("the head waits")
}

/// The same order, said as plainly as possible: lists that are searched.
#[derive(Default)]
struct Model {
    waiting: Vec<(Ticket, u64, Option<Timestamp>, Entry)>,
    /// By class and tenant.
    tags: BTreeMap<(usize, u64), ModelLane>,
    now: BTreeMap<usize, i128>,
}

#[derive(Default)]
struct ModelLane {
    tag: i128,
    /// The arrival that opened the lane.
    since: u64,
    /// What it was charged before that, less where it could have begun.
    lead: i128,
    begun: u64,
    in_flight: u64,
}

impl Model {
    fn lane(
        &self,
        class: usize,
        tenant: u64,
    ) -> impl Iterator<Item = &(Ticket, u64, Option<Timestamp>, Entry)> {
        self.waiting.iter().filter(move |it| it.3.class == class && it.3.tenant == tenant)
    }

    fn insert(&mut self, ticket: Ticket, place: Place, entry: Entry) {
        let now = self.now.get(&entry.class).copied().unwrap_or(0);
        let opens = self.lane(entry.class, entry.tenant).next().is_none();
        let of_class = self.waiting.iter().filter(|it| it.3.class == entry.class);
        let last = of_class.map(|it| self.tags[&(entry.class, it.3.tenant)].tag).max();
        let lane = self.tags.entry((entry.class, entry.tenant)).or_default();
        if opens {
            if lane.in_flight == 0 && lane.tag <= now {
                lane.tag = 0;
            }
            let turn = last.map_or(now, |last| last.min(now));
            let turn = place.tag.map_or(turn, |tag| tag.min(turn));
            (lane.lead, lane.since) = (lane.tag - turn, place.seq);
            (lane.tag, lane.begun) = (lane.tag.max(turn), lane.begun + 1);
        }
        self.waiting.push((ticket, place.seq, place.order, entry));
    }

    fn first_of(&self, class: usize) -> Option<Ticket> {
        let of_class = self.waiting.iter().filter(|it| it.3.class == class);
        let first = of_class.min_by_key(|(_, seq, order, entry)| {
            let lane = &self.tags[&(class, entry.tenant)];
            (lane.tag, lane.since, order.unwrap_or(entry.deadline), *seq)
        });
        first.map(|it| it.0)
    }

    /// Returns the beginning at which it was charged.
    fn dispatch(&mut self, ticket: Ticket) -> u64 {
        let index = self.waiting.iter().position(|it| it.0 == ticket).unwrap();
        let Entry { class, tenant, weight, fair, .. } = self.waiting[index].3;
        let of_class = self.waiting.iter().filter(|it| it.3.class == class);
        let least = of_class.map(|it| self.tags[&(class, it.3.tenant)].tag).min().unwrap();
        let now = self.now.entry(class).or_default();
        *now = least.max(*now);
        self.waiting.remove(index);
        let lane = self.tags.get_mut(&(class, tenant)).unwrap();
        lane.tag += i128::from(fair) * (1 << 20) / i128::from(weight.get());
        lane.in_flight += 1;
        lane.begun
    }

    fn correct(&mut self, class: usize, tenant: u64, begun: Option<u64>, by: i128) {
        let lane = self.tags.get_mut(&(class, tenant)).unwrap();
        lane.in_flight -= 1;
        if begun.is_none_or(|begun| begun == lane.begun) {
            lane.tag += by;
        } else {
            // As if it had been charged that before it began.
            let since = lane.tag - lane.lead.max(0);
            lane.lead += by;
            lane.tag = since + lane.lead.max(0);
        }
    }
}

proptest! {
    /// Against the plain model: arrivals, departures in turn and out of turn, returns, corrections
    /// and deadlines leave the same first request in every class, the same counts, no stale ticket.
    #[test]
    fn the_order_is_the_plain_one_whatever_comes_and_goes(
        steps in prop::collection::vec(
            (0..8_u8, any::<prop::sample::Index>(), 0..3_usize, 0..4_u64, 1..50_u64, 1..9_u64),
            1..150,
        ),
    ) {
        let mut scheduler: Scheduler<u64> = Scheduler::new(&rules(&[0, 0, 0]));
        let (mut model, mut gone, mut flying) = (Model::default(), Vec::new(), Vec::new());
        for (step, pick, class, tenant, fair, deadline) in steps {
            match step {
                0..=2 => {
                    // A tenant's weight is always the same.
                    let entry = entry(class, tenant, u32::try_from(tenant).unwrap() + 1, fair, deadline);
                    let place = scheduler.place();
                    let ticket = scheduler.insert(place, entry, fair);
                    model.insert(ticket, place, entry);
                }
                3 if !model.waiting.is_empty() => {
                    let it = model.waiting.remove(pick.index(model.waiting.len()));
                    prop_assert_eq!(scheduler.remove(it.0).map(|(_, item)| item), Some(it.3.fair));
                    gone.push(it.0);
                }
                4 if !model.waiting.is_empty() => {
                    // In turn or not.
                    let ticket = if deadline < 6 { scheduler.head().unwrap().0 }
                        else { model.waiting[pick.index(model.waiting.len())].0 };
                    let departure = scheduler.dispatch(ticket).unwrap();
                    gone.push(ticket);
                    flying.push((departure, model.dispatch(ticket)));
                }
                5 | 6 if !flying.is_empty() => {
                    let (gone, begun) = flying.swap_remove(pick.index(flying.len()));
                    let Departure { entry, charge, place, .. } = gone;
                    let scaled = |units: u64| i128::from(units) * (1 << 20) / i128::from(entry.weight.get());
                    if step == 5 {
                        scheduler.settle(charge, fair);
                        let by = scaled(fair) - scaled(entry.fair);
                        model.correct(entry.class, entry.tenant, Some(begun), by);
                    } else {
                        let place = scheduler.release(charge, place);
                        model.correct(entry.class, entry.tenant, None, -scaled(entry.fair));
                        let ticket = scheduler.insert(place, entry, entry.fair);
                        model.insert(ticket, place, entry);
                    }
                }
                _ => while let Some(ticket) = scheduler.expired(at(deadline)) {
                    let (entry, _) = scheduler.remove(ticket).unwrap();
                    prop_assert!(entry.deadline <= at(deadline));
                    model.waiting.retain(|it| it.0 != ticket);
                    gone.push(ticket);
                },
            }
            for ticket in &gone {
                prop_assert!(scheduler.get(*ticket).is_none(), "a ticket is good for one wait");
            }
            let first = (0..3).find_map(|class| model.first_of(class));
            prop_assert_eq!(scheduler.head().map(|(ticket, _)| ticket), first);
            let count = model.waiting.len();
            prop_assert_eq!((scheduler.len(), scheduler.is_empty()), (count, count == 0));
            let least = model.waiting.iter().map(|it| it.3.deadline).min();
            prop_assert_eq!(scheduler.next_deadline(), least);
            for class in 0..3 {
                let of_class: Vec<_> = model.waiting.iter().filter(|it| it.3.class == class).collect();
                let fair: u64 = of_class.iter().map(|it| it.3.fair).sum();
                let load = Load { queued: of_class.len(), bytes: 3 * of_class.len() as u64, fair, safe: 2 * fair };
                prop_assert_eq!(scheduler.loads()[class], load);
                let tenants: usize = scheduler.tenants(class).map(|(_, load)| load.queued).sum();
                prop_assert_eq!(tenants, of_class.len());
            }
            for tenant in 0..4 {
                let queued = model.waiting.iter().filter(|it| it.3.tenant == tenant).count();
                prop_assert_eq!(scheduler.load_of(tenant).queued, queued);
            }
        }
    }

    /// `|W_f/w_f - W_g/w_g| <= c_f/w_f + c_g/w_g` over every interval in which both wait, whatever
    /// comes and goes beside them: W is what was sent, c the largest request.
    #[test]
    fn service_over_weight_stays_within_one_request_of_each(
        weights in prop::collection::vec(1..9_u32, 2..6),
        requests in prop::collection::vec((any::<prop::sample::Index>(), 1..1_000_u64), 1..200),
    ) {
        let mut scheduler: Scheduler<()> = Scheduler::default();
        // Tags cross multiplied by all weights, so that they compare as integers.
        let all: i128 = weights.iter().map(|weight| i128::from(*weight)).product();
        let scaled = |index: usize, fair: u64| i128::from(fair) * all / i128::from(weights[index]);
        let mut largest = vec![0; weights.len()];
        for (pick, fair) in &requests {
            let index = pick.index(weights.len());
            let place = scheduler.place();
            scheduler.insert(place, entry(0, index as u64, weights[index], *fair, 9), ());
            largest[index] = scaled(index, *fair).max(largest[index]);
        }
        let mut waiting: Vec<_> = (0..weights.len()).map(|it| scheduler.load_of(it as u64).queued).collect();
        // Since the beginning of the interval that ends now: the extremes of the difference.
        let mut service = vec![0_i128; weights.len()];
        let mut extremes = vec![vec![(0_i128, 0_i128); weights.len()]; weights.len()];
        while !scheduler.is_empty() {
            let Departure { entry, .. } = go(&mut scheduler);
            let index = usize::try_from(entry.tenant).unwrap();
            service[index] += scaled(index, entry.fair);
            for f in 0..weights.len() {
                for g in 0..f {
                    // Both waited until this one went.
                    if waiting[f] == 0 || waiting[g] == 0 { continue }
                    let now = service[f] - service[g];
                    let (least, most) = &mut extremes[f][g];
                    (*least, *most) = (now.min(*least), now.max(*most));
                    // Charges are rounded down to 2^-20 tokens.
                    let spread = *most - *least;
                    prop_assert!(spread <= largest[f] + largest[g] + all / 1_000 + 1, "{f} {g}: {spread}");
                }
            }
            waiting[index] -= 1;
        }
    }

    /// A class that waits is sent its share of everything, less two requests: one that it was sent
    /// too much before, and one that could not be cut in two.
    #[test]
    fn the_guarantee_holds_while_a_class_waits(
        shares in prop::collection::vec(0..1_000_u32, 1..=8).prop_map(|raw| {
            let whole = raw.iter().sum::<u32>().max(1_000);
            raw.iter().map(|it| u16::try_from(it * 1_000 / whole).unwrap()).collect::<Vec<_>>()
        }),
        steps in prop::collection::vec((0..8_usize, 1..1_000_u64, any::<bool>()), 1..400),
    ) {
        let mut scheduler: Scheduler<()> = Scheduler::new(&rules(&shares));
        let mut most = 0;
        // By class, since it began to wait: everything sent, and what it was sent itself.
        let mut since = vec![(0_u64, 0_u64); shares.len()];
        for (class, fair, comes) in steps {
            let class = class % shares.len();
            if comes {
                if scheduler.loads()[class].queued == 0 {
                    since[class] = (0, 0);
                }
                let place = scheduler.place();
                scheduler.insert(place, entry(class, fair % 3, 1, fair, 9), ());
                most = most.max(fair);
            } else if !scheduler.is_empty() {
                let waited: Vec<_> = scheduler.loads().iter().map(|load| load.queued > 0).collect();
                let Departure { entry, .. } = go(&mut scheduler);
                for (index, (total, own)) in since.iter_mut().enumerate() {
                    if waited[index] {
                        *total += entry.fair;
                        *own += if index == entry.class { entry.fair } else { 0 };
                    }
                }
                for (index, (total, own)) in since.iter().enumerate() {
                    let promised = u64::from(shares[index]) * total / 1_000;
                    let slack = 2 * most;
                    prop_assert!(!waited[index] || own + slack >= promised,
                        "class {index}: {own} of {promised}, at most {most} each");
                }
            }
        }
    }

    /// Whatever is corrected when, in the end everyone is charged what they used: tenants that wait
    /// all the time used the same over their weight, but for one request and what is in flight.
    #[test]
    fn estimates_however_wrong_do_not_decide_who_gets_how_much(
        wrong in prop::collection::vec(1..20_u64, 3),
        late in 0..5_usize,
        used in prop::collection::vec(1..1_000_u64, 20..200),
    ) {
        let mut scheduler: Scheduler<u64> = Scheduler::default();
        let mut flying = std::collections::VecDeque::new();
        let (mut total, mut draws) = ([0_i128; 3], used.iter().cycle());
        let mut push = |scheduler: &mut Scheduler<u64>, tenant: u64| {
            let used = *draws.next().unwrap();
            let place = scheduler.place();
            let fair = used * wrong[usize::try_from(tenant).unwrap()];
            scheduler.insert(place, entry(0, tenant, 1, fair, 9), used);
        };
        // Two, because one alone that goes leaves nobody behind.
        [0, 1, 2, 0, 1, 2].into_iter().for_each(|tenant| push(&mut scheduler, tenant));
        for _ in 0..500 {
            let Departure { entry, charge, item, .. } = go(&mut scheduler);
            push(&mut scheduler, entry.tenant);
            total[usize::try_from(entry.tenant).unwrap()] += i128::from(item);
            flying.push_back((charge, item));
            if flying.len() > late {
                let (charge, used) = flying.pop_front().unwrap();
                scheduler.settle(charge, used);
            }
        }
        // One request's charge each way, and the charges that are not corrected yet.
        let slack = 1_000 * 20 * (2 + late as i128);
        let (least, most) = (total.iter().min().unwrap(), total.iter().max().unwrap());
        prop_assert!(most - least <= slack, "{total:?}");
    }
}

proptest! {
    /// Whoever begins to wait after another goes before it once at most, whatever it was charged
    /// too much before: what had been sent to it by then is no claim on those who got nothing.
    #[test]
    fn what_was_charged_before_gets_nobody_ahead_of_those_who_wait(
        before in prop::collection::vec((0..4_u64, 1..1_000_u64), 1..60),
        steps in prop::collection::vec((0..8_u8, any::<prop::sample::Index>(), 0..4_u64, 1..1_000_u64), 1..200),
    ) {
        const NEW: u64 = 9;
        let mut scheduler: Scheduler<()> = Scheduler::default();
        let mut flying = Vec::new();
        for (tenant, fair) in before {
            let place = scheduler.place();
            flying.push(scheduler.pass(place, &entry(0, tenant, 1, fair, 9)).1);
        }
        let push = |scheduler: &mut Scheduler<()>, tenant: u64, fair: u64| {
            let place = scheduler.place();
            scheduler.insert(place, entry(0, tenant, 1, fair, 9), ());
        };
        push(&mut scheduler, NEW, 500);
        let mut sent = [0; 4];
        for (step, pick, tenant, tokens) in steps {
            match step {
                0..=2 => push(&mut scheduler, tenant, tokens),
                3..=5 if !flying.is_empty() => {
                    let charge = flying.swap_remove(pick.index(flying.len()));
                    // Too much was charged, but something was used.
                    let used = tokens.min(charge.fair());
                    scheduler.settle(charge, used);
                }
                _ => {
                    let Departure { entry, charge, .. } = go(&mut scheduler);
                    flying.push(charge);
                    if entry.tenant == NEW {
                        return Ok(());
                    }
                    sent[usize::try_from(entry.tenant).unwrap()] += 1;
                    prop_assert!(sent.iter().all(|sent| *sent <= 1), "{sent:?}");
                }
            }
        }
    }
}

/// Four whose requests turn out to take a third of what they were charged. The first two had a
/// whole burst to themselves; the next is for all.
#[test]
fn a_burst_is_shared_whoever_had_the_one_before() {
    let mut scheduler: Scheduler<()> = Scheduler::default();
    let request = |tenant| entry(0, tenant, 1, 900, 9);
    let mut flying = Vec::new();
    for tenant in [0, 1] {
        for _ in 0..60 {
            let place = scheduler.place();
            flying.push((tenant, scheduler.pass(place, &request(tenant)).1));
        }
    }
    let push = |scheduler: &mut Scheduler<()>, tenant| {
        let place = scheduler.place();
        scheduler.insert(place, request(tenant), ());
    };
    (0..60).for_each(|_| (2..4).for_each(|tenant| push(&mut scheduler, tenant)));
    // They ask again as they are answered.
    for (tenant, charge) in flying {
        scheduler.settle(charge, 300);
        push(&mut scheduler, tenant);
    }
    let mut sent = [0; 4];
    (0..120).for_each(|_| sent[usize::try_from(go(&mut scheduler).entry.tenant).unwrap()] += 1);
    assert_eq!(sent, [30; 4]);
}

/// Virtual time has followed two that were charged ten times what they used; when that is known,
/// somebody who comes then has their turn with them.
#[test]
fn nobody_begins_behind_all_who_wait() {
    let mut scheduler: Scheduler<()> = Scheduler::default();
    let push = |scheduler: &mut Scheduler<()>, tenant| {
        let place = scheduler.place();
        scheduler.insert(place, entry(0, tenant, 1, 1_000, 9), ());
    };
    (0..90).for_each(|_| (0..2).for_each(|tenant| push(&mut scheduler, tenant)));
    let flying: Vec<_> = (0..80).map(|_| go(&mut scheduler).charge).collect();
    flying.into_iter().for_each(|charge| scheduler.settle(charge, 100));
    (0..30).for_each(|_| push(&mut scheduler, 2));
    let mut sent = [0; 3];
    (0..30).for_each(|_| sent[usize::try_from(go(&mut scheduler).entry.tenant).unwrap()] += 1);
    assert_eq!(sent, [10; 3]);
}

#[test]
fn a_tenant_with_one_request_waits_for_one_of_the_others_not_for_all() {
    let mut scheduler: Scheduler<u64> = Scheduler::default();
    for number in 0..1_000 {
        let place = scheduler.place();
        scheduler.insert(place, entry(0, 7, 1, 100, 9), number);
    }
    go(&mut scheduler);
    let place = scheduler.place();
    scheduler.insert(place, entry(0, 8, 1, 100, 9), 5_000);
    let next: Vec<_> = (0..2).map(|_| go(&mut scheduler).item).collect();
    assert!(next.contains(&5_000), "{next:?}");
}

#[test]
fn within_a_tenant_the_earliest_deadline_goes_first_and_one_that_returns_before_it() {
    let mut scheduler: Scheduler<u64> = Scheduler::default();
    for deadline in [30, 10, 20, 10] {
        let place = scheduler.place();
        scheduler.insert(place, entry(0, 1, 1, 100, deadline), place.seq);
    }
    let first = go(&mut scheduler);
    assert_eq!(first.item, 2);
    assert_eq!(scheduler.head().unwrap().1.deadline, at(10));
    let place = scheduler.release(first.charge, first.place);
    scheduler.insert(place, entry(0, 1, 1, 100, 40), 2);
    let order: Vec<_> = (0..4).map(|_| go(&mut scheduler).item).collect();
    assert_eq!(order, [2, 4, 3, 1]);
    // Refused while it waited, and back with a later deadline: as if it had never left.
    let tickets: Vec<_> = [20, 30]
        .map(|deadline| {
            let place = scheduler.place();
            scheduler.insert(place, entry(0, 1, 1, 100, deadline), deadline)
        })
        .into();
    let place = scheduler.place_of(tickets[0]).unwrap();
    assert!(scheduler.remove(tickets[0]).is_some());
    scheduler.insert(place, entry(0, 1, 1, 100, 90), 20);
    assert_eq!(go(&mut scheduler).item, 20);
}

/// One that comes back while others wait has the turn it had, and no more than that.
#[test]
fn a_tenant_whose_request_returns_has_the_turn_it_had() {
    let mut scheduler: Scheduler<u64> = Scheduler::default();
    let push = |scheduler: &mut Scheduler<u64>, tenant: u64| {
        let place = scheduler.place();
        scheduler.insert(place, entry(0, tenant, 1, 100, 9), tenant);
    };
    for tenant in [1, 2, 3, 2, 3, 2, 3] {
        push(&mut scheduler, tenant);
    }
    let first = go(&mut scheduler);
    assert_eq!(first.item, 1);
    let others = [go(&mut scheduler), go(&mut scheduler), go(&mut scheduler)].map(|it| it.item);
    assert_eq!(others, [2, 3, 2], "virtual time has moved on");
    let place = scheduler.release(first.charge, first.place);
    scheduler.insert(place, first.entry, 1);
    let rest: Vec<_> = (0..4).map(|_| go(&mut scheduler).item).collect();
    assert_eq!(rest, [1, 3, 2, 3], "at once, and then it has had its turn");
}

#[test]
fn staying_away_saves_nothing_up_and_coming_one_by_one_is_no_way_around_the_ranks() {
    // The second class has a fifth, and never more than one waiting.
    let mut scheduler: Scheduler<()> = Scheduler::new(&rules(&[0, 200]));
    let push = |scheduler: &mut Scheduler<()>, class: usize| {
        let place = scheduler.place();
        scheduler.insert(place, entry(class, 1, 1, 100, 9), ());
    };
    let mut sent = [0; 2];
    for _ in 0..1_000 {
        for class in 0..2 {
            if scheduler.loads()[class].queued == 0 {
                push(&mut scheduler, class);
            }
        }
        sent[go(&mut scheduler).entry.class] += 1;
    }
    assert!((195..=205).contains(&sent[1]), "{sent:?}");
    // Alone for a while, by its rank; then the first class comes, and has its four of five at once.
    while !scheduler.is_empty() {
        go(&mut scheduler);
    }
    for _ in 0..100 {
        push(&mut scheduler, 1);
    }
    for _ in 0..50 {
        go(&mut scheduler);
    }
    (0..50).for_each(|_| push(&mut scheduler, 0));
    let next: Vec<_> = (0..10).map(|_| go(&mut scheduler).entry.class).collect();
    assert!(next.iter().filter(|class| **class == 1).count() <= 2, "{next:?}");
}

#[test]
fn those_behind_a_blocked_head_are_found_in_the_order_of_their_turns() {
    let mut scheduler: Scheduler<u64> = Scheduler::new(&rules(&[0, 0]));
    for (class, tenant, item) in
        [(1, 1, 100), (0, 1, 0), (0, 1, 2), (0, 2, 1), (0, 1, 3), (1, 2, 101)]
    {
        let place = scheduler.place();
        scheduler.insert(place, entry(class, tenant, 1, 10, 9), item);
    }
    let behind = scheduler.behind_head();
    let items: Vec<_> = behind.into_iter().map(|it| scheduler.remove(it).unwrap().1).collect();
    assert_eq!(items, [1, 2, 3, 100, 101]);
    let (head, _) = scheduler.head().unwrap();
    scheduler.bypass(head, Cost::new(1, 7));
    scheduler.bypass(head, Cost::new(1, 5));
    assert_eq!(scheduler.bypassed(head), Cost::new(2, 12));
    for number in 0..40 {
        let place = scheduler.place();
        scheduler.insert(place, entry(0, number % 3, 1, 10, 9), number);
    }
    assert_eq!(scheduler.behind_head().len(), MOST_LOOKED_AT);
    assert!(!scheduler.behind_head().contains(&head));
}

#[test]
fn tenants_are_remembered_while_it_matters_and_not_without_end() {
    let mut scheduler: Scheduler<()> = Scheduler::default();
    let remembered = |scheduler: &Scheduler<()>| scheduler.lanes[0].len();
    for tenant in 0..20_000 {
        let place = scheduler.place();
        let (_, charge) = scheduler.pass(place, &entry(0, tenant, 1, 100, 9));
        scheduler.settle(charge, 100);
    }
    assert!(remembered(&scheduler) <= 4_097, "{}", remembered(&scheduler));
    // One tenant goes on: virtual time passes the others.
    for _ in 0..10 {
        let place = scheduler.place();
        let (_, charge) = scheduler.pass(place, &entry(0, 1, 1, 100, 9));
        scheduler.settle(charge, 100);
    }
    assert_eq!(remembered(&scheduler), 1);
    let place = scheduler.place();
    let (place, charge) = scheduler.pass(place, &entry(0, 2, 1, 100, 9));
    let tag = scheduler.lanes[0].tag(2);
    scheduler.release(charge, place);
    assert!(scheduler.lanes[0].tag(2) < tag, "given back");
}

#[test]
fn who_costs_less_while_waiting_leaves_nothing_behind() {
    let mut scheduler = Scheduler::new(&rules(&[1_000]));
    let tickets = [10, 20].map(|deadline| {
        let place = scheduler.place();
        scheduler.insert(place, entry(0, 1, 1, 100, deadline), ())
    });
    let later = entry(0, 1, 1, 100, 15);
    assert_eq!(scheduler.ahead(&later).own.safe, 200);
    assert!(scheduler.lower(tickets[0], Cost::new(1, 50)));
    assert_eq!(scheduler.ahead(&later).own.safe, 50, "of those before it");
    assert_eq!(scheduler.load_of(1).safe, 250, "of all");
    for ticket in tickets {
        assert!(scheduler.remove(ticket).is_some());
    }
    assert_eq!(scheduler.loads(), [Load::default()]);
}
