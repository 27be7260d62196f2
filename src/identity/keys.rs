//! Keys of the gateway's own: who holds one is a tenant, and what the tenant may do.
//!
//! A key is 256 random bits, so its SHA-256 is all that has to be kept: there is no list of likely keys
//! to try, which is what a slow hash (argon2, scrypt) makes dear, and one of those would make every
//! request wait for tens of milliseconds and megabytes.
//!
//! # Invariants
//!
//! - Whether a key is right takes as long to find out whether it is nearly right or not at all. What is
//!   looked up is the first 64 bits of the digest of what was sent, which nobody can steer without
//!   knowing what comes of it: how far the search went tells no more than a sender could work out alone.
//!   The whole digest is compared in constant time.
//! - A tenant is its name: its key may be replaced, and what it has used and made stays its own.

use std::num::NonZeroU32;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::id;
use crate::limit::Constraint;
use crate::time::Timestamp;

/// A tenant, and the key that stands for it.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualKey {
    id: u64,
    /// The tenant's name, for logs and metrics.
    pub name: Arc<str>,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// Keys that it replaces, which are good for a while yet.
    pub previous: Vec<Previous>,
    /// Whether its streams are kept alive while they wait, unless a request says otherwise.
    pub heartbeats: bool,
    /// Its share relative to other tenants.
    pub weight: NonZeroU32,
    /// Index of the class of its requests that name none.
    pub class: Option<usize>,
    /// When its keys are good no longer, by the wall clock.
    pub expires: Option<Timestamp>,
    /// Whether its keys are good for nothing.
    pub revoked: bool,
    /// What it may use; `None` for everything.
    pub terms: Option<Arc<Terms>>,
    /// Whether it stands in the keys' file, which the command line writes.
    pub in_keys_file: bool,
}

/// A key that was replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Previous {
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// When it is good no longer, by the wall clock.
    pub expires: Timestamp,
}

/// What a tenant may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Identifies the tenant's own quota.
    pub quota: [u8; 16],
    /// The models that it may use; empty for all of them.
    pub models: Vec<ModelPattern>,
    /// Its own limits, all models together; empty for none.
    pub limits: Vec<Constraint>,
    /// Its requests on their way at once.
    pub max_concurrent: Option<NonZeroU32>,
}

/// A model's name, or what the names of several begin with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ModelPattern {
    /// This one.
    Is(Box<str>),
    /// All that begin so.
    Begins(Box<str>),
}

/// Why a key opens nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadKey {
    /// It is missing or none of those configured.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// Every tenant, found by key and by number.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    tenants: Vec<VirtualKey>,
    /// In order of the digests.
    credentials: Vec<Credential>,
    /// Numbers of tenants with their indices, in order.
    numbers: Vec<(u64, usize)>,
}

/// A key that opens something.
#[derive(Clone, Debug)]
struct Credential {
    digest: [u8; 32],
    tenant: usize,
    /// When it is good no longer, whatever becomes of its tenant.
    until: Option<Timestamp>,
}

impl VirtualKey {
    /// A tenant called `name`, with nothing said of it but its key's digest.
    pub fn new(name: &str, digest: [u8; 32]) -> Self {
        Self {
            id: id(&named("tenant", name)),
            name: name.into(),
            digest,
            previous: Vec::new(),
            heartbeats: true,
            weight: NonZeroU32::MIN,
            class: None,
            expires: None,
            revoked: false,
            terms: None,
            in_keys_file: false,
        }
    }

    /// Its holder, as the queue knows them.
    pub const fn tenant(&self) -> u64 {
        self.id
    }

    /// Identifies the quota of the tenant called `name`: 128 bits that are no account's and model's.
    pub fn quota(name: &str) -> [u8; 16] {
        let digest = named("quota", name);
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        key
    }

    /// Whether its keys are good at `now`.
    ///
    /// # Errors
    ///
    /// [`BadKey`], but never [`BadKey::Unknown`].
    pub fn check(&self, now: Timestamp) -> Result<(), BadKey> {
        if self.revoked {
            return Err(BadKey::Revoked);
        }
        check(self.expires, now)
    }
}

impl Terms {
    /// Whether `model` may be used.
    pub fn allow(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.fits(model))
    }

    /// Whether what is used is counted.
    pub const fn are_counted(&self) -> bool {
        !self.limits.is_empty() || self.max_concurrent.is_some()
    }
}

impl ModelPattern {
    /// Reads `name`, or `begins*`; `None` if a star stands elsewhere, or there is nothing.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('*') {
            None if text.is_empty() => None,
            None => Some(Self::Is(text.into())),
            Some((start, "")) => Some(Self::Begins(start.into())),
            Some(_) => None,
        }
    }

    /// Whether `model` is meant.
    pub fn fits(&self, model: &str) -> bool {
        match self {
            Self::Is(name) => **name == *model,
            Self::Begins(start) => model.starts_with(&**start),
        }
    }
}

impl std::fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Is(name) => f.write_str(name),
            Self::Begins(start) => write!(f, "{start}*"),
        }
    }
}

impl Keys {
    /// These tenants; no two have a name or a digest in common.
    pub fn new(tenants: Vec<VirtualKey>) -> Self {
        let mut credentials = Vec::with_capacity(tenants.len());
        for (tenant, key) in tenants.iter().enumerate() {
            credentials.push(Credential { digest: key.digest, tenant, until: None });
            credentials.extend(key.previous.iter().map(|before| Credential {
                digest: before.digest,
                tenant,
                until: Some(before.expires),
            }));
        }
        credentials.sort_unstable_by_key(|it| it.digest);
        let numbers = tenants.iter().enumerate().map(|(index, key)| (key.tenant(), index));
        let mut numbers: Vec<_> = numbers.collect();
        numbers.sort_unstable();
        Self { tenants, credentials, numbers }
    }

    /// The tenant whose key has this digest, if that is good at `now`.
    ///
    /// # Errors
    ///
    /// [`BadKey`] if it is not; only who holds a key learns more than that it is unknown.
    pub fn open(&self, digest: &[u8; 32], now: Timestamp) -> Result<&VirtualKey, BadKey> {
        let prefix = id(digest);
        let first = self.credentials.partition_point(|it| id(&it.digest) < prefix);
        let alike = self.credentials[first..].iter().take_while(|it| id(&it.digest) == prefix);
        let found = alike.fold(None, |found, credential| {
            if bool::from(credential.digest.ct_eq(digest)) { Some(credential) } else { found }
        });
        let credential = found.ok_or(BadKey::Unknown)?;
        let key = &self.tenants[credential.tenant];
        key.check(now)?;
        check(credential.until, now)?;
        Ok(key)
    }

    /// The tenant with this number.
    pub fn tenant(&self, number: u64) -> Option<&VirtualKey> {
        let at = self.numbers.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.tenants[self.numbers[at].1])
    }
}

fn check(until: Option<Timestamp>, now: Timestamp) -> Result<(), BadKey> {
    if until.is_some_and(|until| until <= now) { Err(BadKey::Expired) } else { Ok(()) }
}

/// A digest of a name, for one purpose.
fn named(purpose: &str, name: &str) -> [u8; 32] {
    let start = Sha256::new().chain_update("tidegate ").chain_update(purpose).chain_update([0]);
    start.chain_update(name).finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(key: &str) -> [u8; 32] {
        Sha256::digest(key).into()
    }

    const NOW: Timestamp = Timestamp::from_nanos(1_000);
    const LATER: Timestamp = Timestamp::from_nanos(1_001);

    #[test]
    fn a_key_is_good_until_it_is_revoked_or_its_time_is_over() {
        let plain = VirtualKey::new("plain", digest("plain"));
        let bounded = |name: &str, expires| VirtualKey {
            expires: Some(expires),
            ..VirtualKey::new(name, digest(name))
        };
        let replaced = |name: &str, before: &str, expires| VirtualKey {
            previous: vec![Previous { digest: digest(before), expires }],
            ..VirtualKey::new(name, digest(name))
        };
        let revoked = |key| VirtualKey { revoked: true, ..key };
        let keys = Keys::new(vec![
            plain,
            bounded("good", LATER),
            bounded("over", NOW),
            revoked(bounded("revoked", NOW)),
            replaced("new", "old", LATER),
            replaced("newer", "older", NOW),
            revoked(replaced("gone", "gone before", LATER)),
            VirtualKey { expires: Some(NOW), ..replaced("both", "both before", LATER) },
        ]);
        for (sent, expected) in [
            ("plain", Ok("plain")),
            ("good", Ok("good")),
            ("over", Err(BadKey::Expired)),
            ("revoked", Err(BadKey::Revoked)),
            ("new", Ok("new")),
            ("old", Ok("new")),
            ("newer", Ok("newer")),
            ("older", Err(BadKey::Expired)),
            ("gone", Err(BadKey::Revoked)),
            ("gone before", Err(BadKey::Revoked)),
            ("both before", Err(BadKey::Expired)),
            ("stranger", Err(BadKey::Unknown)),
            ("", Err(BadKey::Unknown)),
        ] {
            let opened = keys.open(&digest(sent), NOW).map(|key| &*key.name);
            assert_eq!(opened, expected, "{sent}");
        }
    }

    #[test]
    fn digests_that_begin_alike_are_told_apart() {
        let mut digests = [[7; 32]; 4];
        for (index, digest) in digests.iter_mut().enumerate() {
            digest[31] = u8::try_from(index).unwrap();
        }
        let named =
            |(index, digest): (usize, &[u8; 32])| VirtualKey::new(&index.to_string(), *digest);
        let keys = Keys::new(digests[..3].iter().enumerate().map(named).collect());
        for (index, digest) in digests[..3].iter().enumerate() {
            assert_eq!(&*keys.open(digest, NOW).unwrap().name, index.to_string());
        }
        assert_eq!(keys.open(&digests[3], NOW), Err(BadKey::Unknown));
    }

    #[test]
    fn models_are_named_or_begin_alike() {
        let terms = |models: &[&str]| Terms {
            quota: [0; 16],
            models: models.iter().map(|it| ModelPattern::parse(it).unwrap()).collect(),
            limits: Vec::new(),
            max_concurrent: None,
        };
        for (models, model, allowed) in [
            (&[][..], "anything", true),
            (&["a"], "a", true),
            (&["a"], "ab", false),
            (&["a"], "A", false),
            (&["a", "b*"], "b", true),
            (&["a", "b*"], "b-large", true),
            (&["a", "b*"], "cb", false),
            (&["*"], "", true),
        ] {
            assert_eq!(terms(models).allow(model), allowed, "{models:?} {model}");
        }
        for wrong in ["", "a*b", "*a", "**"] {
            assert_eq!(ModelPattern::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        /// Whatever the keys, each opens its own tenant, by its key and by its number, and no other
        /// digest opens anything.
        #[test]
        fn every_key_opens_its_own_tenant(
            digests in prop::collection::btree_set(prop::array::uniform32(0..3_u8), 1..60),
            other in prop::array::uniform32(0..3_u8),
        ) {
            let digests: Vec<_> = digests.into_iter().collect();
            let named = |(index, digest): (usize, &[u8; 32])| {
                VirtualKey::new(&index.to_string(), *digest)
            };
            let tenants: Vec<_> = digests.iter().enumerate().map(named).collect();
            let keys = Keys::new(tenants.clone());
            for key in &tenants {
                prop_assert_eq!(keys.open(&key.digest, NOW), Ok(key));
                prop_assert_eq!(keys.tenant(key.tenant()), Some(key));
            }
            prop_assert_eq!(keys.open(&other, NOW).is_ok(), digests.contains(&other));
            prop_assert_eq!(keys.tenant(0), None);
        }
    }
}
