use proptest::prelude::*;
use tokio_util::task::TaskTracker;

use super::*;
use crate::admission::Pool;
use crate::limit::Mode;
use crate::time::Epoch;

const LIMIT: i64 = 1_000_000;

/// A pool of which nothing comes back while a test runs.
fn pool(epoch: Epoch, tasks: &TaskTracker, max_concurrent: Option<u32>) -> Arc<Pool> {
    let day = Duration::from_secs(86_400);
    let limit = u64::try_from(LIMIT).unwrap();
    let tokens = Constraint::new(Unit::Tokens, limit, day, "day", Mode::Sliding);
    let config = PoolConfig {
        constraints: vec![tokens.unwrap()],
        cold_start: ColdStart::Full,
        classes: Vec::new(),
        max_queued: 100,
        per_tenant: TenantLimits::NONE,
        settle_delay: Duration::ZERO,
        max_concurrent: max_concurrent.and_then(std::num::NonZeroU32::new),
        min_gap: Duration::ZERO,
        circuit: circuit::Rule::OFF,
    };
    Pool::start(config, epoch, tasks)
}

/// What a pool has left and holds.
fn level(pool: &Pool) -> (i64, u64) {
    let mut seen = (0, 0);
    pool.levels(|level| seen = (level.available, level.held));
    seen
}

/// How far a request comes, and how it ends there.
#[derive(Clone, Debug)]
enum Way {
    /// It gives up in its tenant's line, if it has to wait there.
    LeavesGate,
    /// It gives up in the account's line, if it has to wait there.
    LeavesLine,
    /// It gives up with both admissions, before it was sent.
    LeavesAdmitted,
    /// It is sent; attempts that the upstream refuses, as charged or not; then how it ends.
    Sent(Vec<bool>, End),
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// The last attempt was the last.
    Refused,
    /// Nobody waits for the next attempt.
    GaveUp,
    /// It hangs up while it is at the upstream.
    HangsUp,
    Settled(u64),
    Unknown,
}

fn way() -> impl Strategy<Value = Way> {
    let end = prop_oneof![
        Just(End::Refused),
        Just(End::GaveUp),
        Just(End::HangsUp),
        (0..300_u64).prop_map(End::Settled),
        Just(End::Unknown),
    ];
    prop_oneof![
        Just(Way::LeavesGate),
        Just(Way::LeavesLine),
        Just(Way::LeavesAdmitted),
        (prop::collection::vec(any::<bool>(), 0..3), end)
            .prop_map(|(misses, end)| Way::Sent(misses, end)),
    ]
}

/// Takes a request of 100 tokens its way; returns what its tenant has to pay for it.
async fn go(way: Way, gate: &Arc<Pool>, account: &Arc<Pool>) -> i64 {
    const COST: i64 = 100;
    let request = |pool: &Pool| {
        let deadline = pool.now().after(Duration::from_secs(3_600));
        Request::new(Cost::new(1, 100), 0, deadline)
    };
    let asked = gate.ask(request(gate), None).unwrap();
    if matches!(way, Way::LeavesGate) {
        tokio::task::yield_now().await;
        drop(asked);
        return 0;
    }
    let hold = TenantHold::new(asked.admitted().await.unwrap());
    let asked = account.ask(request(account), None).unwrap();
    if matches!(way, Way::LeavesLine) {
        tokio::task::yield_now().await;
        drop((asked, hold));
        return 0;
    }
    let mut passage = Passage::new(asked.admitted().await.unwrap(), Some(hold));
    tokio::task::yield_now().await;
    let Way::Sent(misses, end) = way else { return 0 };
    let mut owes = false;
    for charged in misses {
        passage.sent();
        owes |= charged;
        let rejection = Rejection { charged, ..Rejection::default() };
        let Passage { account: admitted, mut tenant } = *passage;
        let place = admitted.reject(rejection);
        if let Some(hold) = &mut tenant {
            hold.missed(rejection);
        }
        tokio::task::yield_now().await;
        let again = account.readmit(request(account), place).await.unwrap();
        passage = Passage::new(again, tenant);
    }
    match end {
        End::GaveUp => return if owes { COST } else { 0 },
        _ => passage.sent(),
    }
    match end {
        End::Refused => {
            passage.reject(Rejection::default());
            if owes { COST } else { 0 }
        }
        End::Settled(used) => {
            passage.account.charged();
            passage.tenant_charged();
            passage.settle(Spent::Exact(Cost::new(1, used)));
            i64::try_from(used).unwrap()
        }
        End::Unknown => {
            passage.settle(Spent::Unknown);
            COST
        }
        End::GaveUp | End::HangsUp => COST,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Wherever requests give up, and however often they are sent and refused: a tenant has spent in
    /// the end what its answers used or what may have been charged, and nothing is held.
    #[test]
    fn a_tenant_has_spent_what_was_spent_for_it(
        ways in prop::collection::vec(way(), 1..20),
        (at_gate, at_account) in (1..4_u32, 1..4_u32),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        let (paid, left) = runtime.block_on(async {
            let (epoch, tasks) = (Epoch::start(), TaskTracker::new());
            let gate = pool(epoch, &tasks, Some(at_gate));
            let account = pool(epoch, &tasks, Some(at_account));
            let all = ways.into_iter().map(|way| go(way, &gate, &account));
            let paid: i64 = futures_util::future::join_all(all).await.into_iter().sum();
            // A refund is as good as made once its time has come.
            tokio::time::advance(Duration::from_secs(1)).await;
            let snapshots = [&gate, &account].map(|pool| pool.snapshot());
            for snapshot in snapshots {
                assert_eq!((snapshot.queued, snapshot.in_flight), (0, 0));
            }
            assert_eq!(level(&account).1, 0);
            (paid, level(&gate))
        });
        prop_assert_eq!(left, (LIMIT - paid, 0));
    }
}
