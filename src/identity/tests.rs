use super::*;

fn key(name: &str, key: &str) -> VirtualKey {
    VirtualKey::new(name, Sha256::digest(key).into())
}

const NOW: Timestamp = Timestamp::from_nanos(1_000);

#[test]
fn the_holder_of_a_configured_key_is_its_tenant() {
    let access = Access::Keys(Keys::new(vec![key("a", "key-a"), key("b", "key-b")]));
    let tenant =
        |header: &[u8]| access.identify(Some(header), None, NOW).map(|it| it.tenant.to_string());
    assert_eq!(tenant(b"Bearer key-b"), Ok("b".to_owned()));
    assert_eq!(tenant(b"bearer  key-a "), Ok("a".to_owned()));
    for wrong in [&b"Bearer key-"[..], b"Bearer key-aa", b"Bearer", b"", b"\xff\xfe"] {
        assert_eq!(tenant(wrong), Err(BadKey::Unknown), "{wrong:?}");
    }
    assert!(access.identify(None, None, NOW).is_err());
}

#[test]
fn a_number_is_told_by_the_name_that_its_tenant_goes_by() {
    let keys = vec![key("a", "key-a"), key("b", "key-b")];
    for access in [Access::PassThrough, Access::Open, Access::Keys(Keys::new(keys))] {
        for header in [None, Some(&b"Bearer key-b"[..])] {
            let Ok(caller) = access.identify(header, None, NOW) else { continue };
            assert_eq!(access.name_of(caller.id), &*caller.tenant, "{header:?}");
        }
        let operator = access.operator();
        assert_eq!(access.name_of(operator.id), &*operator.tenant);
    }
}

#[test]
fn an_owner_is_the_caller_again_while_it_may_call() {
    let mut keys = vec![key("a", "key-a"), key("b", "key-b")];
    keys[1].weight = nonzero(3);
    let access = Access::Keys(Keys::new(keys.clone()));
    let caller = access.identify(Some(b"Bearer key-b"), None, NOW).unwrap();
    let again = access.again(&caller.owner(), NOW).unwrap();
    assert_eq!((again.id, again.weight), (caller.id, nonzero(3)));
    assert_eq!(again.account.quota("m"), caller.account.quota("m"));
    let without = Access::Keys(Keys::new(keys[..1].to_vec()));
    assert!(without.again(&caller.owner(), NOW).is_none(), "its key was removed");
    let operator = access.operator();
    assert_eq!(access.again(&operator.owner(), NOW).unwrap().account, caller.account);
    assert!(Access::PassThrough.again(&Access::PassThrough.operator().owner(), NOW).is_some());
    let own = Access::PassThrough.identify(Some(b"Bearer own"), None, NOW).unwrap();
    assert_eq!(Access::PassThrough.again(&own.owner(), NOW).unwrap().account, own.account);
    assert!(access.again(&own.owner(), NOW).is_none(), "it paid for itself, and would not now");
    assert!(Access::PassThrough.again(&caller.owner(), NOW).is_none(), "who would pay?");
    let kept = Account::from_bytes(own.account.to_bytes());
    assert_eq!(kept, own.account);
}

#[test]
fn a_tenant_is_its_name_whatever_its_key() {
    let before = Access::Keys(Keys::new(vec![key("a", "old")]));
    let mut rotated = key("a", "new");
    rotated.previous = vec![Previous { digest: Sha256::digest("old").into(), expires: NOW }];
    let after = Access::Keys(Keys::new(vec![rotated.clone()]));
    let caller = before.identify(Some(b"Bearer old"), None, NOW).unwrap();
    let again = after.identify(Some(b"Bearer new"), None, NOW).unwrap();
    assert_eq!((caller.id, &*caller.tenant), (again.id, "a"));
    assert_eq!(after.identify(Some(b"Bearer old"), None, NOW).err(), Some(BadKey::Expired));
    assert!(after.again(&caller.owner(), NOW).is_some(), "what it made is its own still");
    rotated.revoked = true;
    let revoked = Access::Keys(Keys::new(vec![rotated]));
    assert!(revoked.again(&caller.owner(), NOW).is_none());
    assert!(revoked.again(&revoked.operator().owner(), NOW).is_some());
}

fn nonzero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

#[test]
fn accounts_and_models_have_quotas_of_their_own() {
    let caller =
        |header: &str| Access::PassThrough.identify(Some(header.as_bytes()), None, NOW).unwrap();
    let (one, other) = (caller("Bearer k-one"), caller("Bearer k-other"));
    assert_eq!(caller("bearer k-one").account, one.account);
    assert_ne!(one.account.quota("m"), other.account.quota("m"));
    assert_ne!(one.account.quota("m"), one.account.quota("n"));
    let shared = Access::Open;
    let [a, b] =
        ["Bearer x", "Bearer y"].map(|it| shared.identify(Some(it.as_bytes()), None, NOW).unwrap());
    assert_eq!(a.account, b.account, "one account, whoever calls");
    assert!(!format!("{one:?}").contains("k-one"), "a key is never shown");
}
