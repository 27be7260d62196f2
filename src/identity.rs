//! Who asks: the caller's key becomes a tenant and an upstream account.
//!
//! # Invariants
//!
//! - A key is never kept or shown: only its SHA-256 is, and of that only a few digits are shown.
//! - Whether a key is right takes as long to find out whether it is nearly right or not at all.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A key that a caller of the gateway holds.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualKey {
    /// The tenant's name, for logs and metrics.
    pub name: Arc<str>,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// Whether its streams are kept alive while they wait, unless a request says otherwise.
    pub heartbeats: bool,
    /// Its share relative to other tenants.
    pub weight: NonZeroU32,
    /// Index of the class of its requests that name none.
    pub class: Option<usize>,
}

/// Whose quota is spent: a digest of what identifies the account at the upstream.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Account([u8; 32]);

/// Who may call, and whose quota their calls spend.
#[derive(Clone, Debug)]
pub enum Access {
    /// Callers bring keys of the upstream; each key is an account of its own.
    PassThrough,
    /// The gateway holds the one account; with keys configured, only their holders may use it.
    Gateway(Vec<VirtualKey>),
}

/// A caller that may call.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The virtual key's name, or a few digits that tell bearers apart.
    pub tenant: Arc<str>,
    /// Whose quota its calls spend.
    pub account: Account,
    /// Whether its streams are kept alive while they wait, unless a request says otherwise.
    pub heartbeats: bool,
    /// The tenant, as the queue knows it: the first 64 bits of a digest.
    pub id: u64,
    /// Its share relative to other tenants.
    pub weight: NonZeroU32,
    /// Index of the class of its requests that name none.
    pub class: Option<usize>,
}

/// The caller's key is missing or not one of those configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownKey;

/// Whose something is that outlives the request that made it: enough to act for them later, and no
/// key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// The tenant, as the queue knows it.
    pub id: u64,
    /// Whose quota is spent.
    pub account: Account,
}

impl Owner {
    /// Whether this is whoever runs the program.
    pub const fn is_operator(&self) -> bool {
        self.id == OPERATOR
    }
}

impl Caller {
    /// The caller as an owner.
    pub fn owner(&self) -> Owner {
        Owner { tenant: Arc::clone(&self.tenant), id: self.id, account: self.account }
    }
}

impl VirtualKey {
    /// Its holder, as the queue knows them.
    pub fn tenant(&self) -> u64 {
        id(&self.digest)
    }
}

impl Account {
    /// The account that the gateway's own key belongs to.
    const GATEWAY: Self = Self([0; 32]);

    /// The account of which these bytes were kept ([`Self::to_bytes`]).
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The account as bytes, to be kept: a digest, from which nobody gets a key.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Whether calls need a key that only their caller has.
    pub fn is_callers(&self) -> bool {
        *self != Self::GATEWAY
    }

    /// Identifies the account's quota for `model`: 128 bits that no caller can steer.
    pub fn quota(&self, model: &str) -> [u8; 16] {
        let digest = Sha256::new().chain_update(self.0).chain_update(model).finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        key
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", Short::of(&self.0).as_str())
    }
}

/// The operator among tenants: nobody's digest is zero.
const OPERATOR: u64 = 0;

impl Access {
    /// Whoever runs the program, for what is done at its own command line: on the gateway's account,
    /// or on none where callers bring their own.
    pub fn operator(&self) -> Caller {
        let account = match self {
            Self::PassThrough => Account(Sha256::digest([]).into()),
            Self::Gateway(_) => Account::GATEWAY,
        };
        Caller {
            tenant: "operator".into(),
            account,
            heartbeats: false,
            id: OPERATOR,
            weight: NonZeroU32::MIN,
            class: None,
        }
    }

    /// Identifies the caller by the value of its `Authorization` header. Callers without a key of the
    /// gateway's own are tenants by that value, and by what a trusted header says of them (`told`).
    ///
    /// # Errors
    ///
    /// [`UnknownKey`] if keys are configured and this is none of them.
    pub fn identify(
        &self,
        authorization: Option<&[u8]>,
        told: Option<&[u8]>,
    ) -> Result<Caller, UnknownKey> {
        let digest: [u8; 32] = Sha256::digest(bearer(authorization.unwrap_or_default())).into();
        let plain = |nobody: &str, account| {
            let named = told.map(|told| Sha256::new().chain_update(digest).chain_update(told));
            let tenant: [u8; 32] = named.map_or(digest, |named| named.finalize().into());
            // Not the header's own words: they may be somebody's name.
            let unnamed = authorization.is_none() && told.is_none();
            let name = if unnamed { nobody.into() } else { Short::of(&tenant).as_str().into() };
            let (id, weight) = (id(&tenant), NonZeroU32::MIN);
            Ok(Caller { tenant: name, account, heartbeats: true, id, weight, class: None })
        };
        match self {
            Self::PassThrough => plain("anonymous", Account(digest)),
            Self::Gateway(keys) if keys.is_empty() => plain("default", Account::GATEWAY),
            Self::Gateway(keys) => {
                // All of them are compared, whichever it is.
                let found = keys.iter().fold(None, |found, key| {
                    if bool::from(key.digest.ct_eq(&digest)) { Some(key) } else { found }
                });
                let key = found.ok_or(UnknownKey)?;
                let (tenant, account) = (Arc::clone(&key.name), Account::GATEWAY);
                let VirtualKey { heartbeats, weight, class, .. } = *key;
                Ok(Caller { tenant, account, heartbeats, id: id(&digest), weight, class })
            }
        }
    }

    /// A tenant's name by its number. That of a tenant whom a header tells apart is not known here: it
    /// is told by digits, as in its requests' log lines.
    pub fn name_of(&self, tenant: u64) -> String {
        let nobody: [u8; 32] = Sha256::digest([]).into();
        let digits = || format!("{:08x}", tenant >> 32);
        match self {
            _ if tenant == OPERATOR => "operator".to_owned(),
            Self::PassThrough if tenant == id(&nobody) => "anonymous".to_owned(),
            Self::Gateway(keys) if keys.is_empty() && tenant == id(&nobody) => "default".to_owned(),
            Self::PassThrough => digits(),
            Self::Gateway(keys) => {
                let key = keys.iter().find(|key| key.tenant() == tenant);
                key.map_or_else(digits, |key| key.name.to_string())
            }
        }
    }

    /// The caller that an owner was, if it may still call: its key may have been removed since, or
    /// the gateway have got an account of its own.
    pub fn again(&self, owner: &Owner) -> Option<Caller> {
        let Owner { tenant, id, account } = owner.clone();
        let plain =
            Caller { tenant, account, heartbeats: false, id, weight: NonZeroU32::MIN, class: None };
        match self {
            Self::PassThrough => account.is_callers().then_some(plain),
            Self::Gateway(_) if account.is_callers() => None,
            Self::Gateway(keys) if keys.is_empty() || id == OPERATOR => Some(plain),
            Self::Gateway(keys) => {
                let VirtualKey { weight, class, .. } = keys.iter().find(|it| it.tenant() == id)?;
                Some(Caller { weight: *weight, class: *class, ..plain })
            }
        }
    }
}

/// The token of a bearer credential; the whole value of any other.
fn bearer(authorization: &[u8]) -> &[u8] {
    match authorization.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        _ => authorization,
    }
}

/// The first 64 bits of a digest: enough that no two callers of a pool are ever one tenant.
fn id(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Eight hexadecimal digits: enough to tell callers apart, far too few to recognise a key by.
struct Short([u8; 8]);

impl Short {
    fn of(digest: &[u8; 32]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 8];
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
            pair.copy_from_slice(&[byte >> 4, byte & 0xf].map(|half| DIGITS[usize::from(half)]));
        }
        Self(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, key: &str) -> VirtualKey {
        VirtualKey {
            name: name.into(),
            digest: Sha256::digest(key).into(),
            heartbeats: true,
            weight: NonZeroU32::MIN,
            class: None,
        }
    }

    #[test]
    fn the_holder_of_a_configured_key_is_its_tenant() {
        let access = Access::Gateway(vec![key("a", "key-a"), key("b", "key-b")]);
        let tenant =
            |header: &[u8]| access.identify(Some(header), None).map(|it| it.tenant.to_string());
        assert_eq!(tenant(b"Bearer key-b"), Ok("b".to_owned()));
        assert_eq!(tenant(b"bearer  key-a "), Ok("a".to_owned()));
        for wrong in [&b"Bearer key-"[..], b"Bearer key-aa", b"Bearer", b"", b"\xff\xfe"] {
            assert_eq!(tenant(wrong), Err(UnknownKey), "{wrong:?}");
        }
        assert!(access.identify(None, None).is_err());
    }

    #[test]
    fn a_number_is_told_by_the_name_that_its_tenant_goes_by() {
        let keys = vec![key("a", "key-a"), key("b", "key-b")];
        for access in [Access::PassThrough, Access::Gateway(vec![]), Access::Gateway(keys)] {
            for header in [None, Some(&b"Bearer key-b"[..])] {
                let Ok(caller) = access.identify(header, None) else { continue };
                assert_eq!(access.name_of(caller.id), &*caller.tenant, "{header:?}");
            }
            let operator = access.operator();
            assert_eq!(access.name_of(operator.id), &*operator.tenant);
        }
    }

    #[test]
    fn an_owner_is_the_caller_again_while_it_may_call() {
        let keys = vec![key("a", "key-a"), VirtualKey { weight: nonzero(3), ..key("b", "key-b") }];
        let access = Access::Gateway(keys.clone());
        let caller = access.identify(Some(b"Bearer key-b"), None).unwrap();
        let again = access.again(&caller.owner()).unwrap();
        assert_eq!((again.id, again.weight), (caller.id, nonzero(3)));
        assert_eq!(again.account.quota("m"), caller.account.quota("m"));
        let without = Access::Gateway(keys[..1].to_vec());
        assert!(without.again(&caller.owner()).is_none(), "its key was removed");
        let operator = access.operator();
        assert_eq!(access.again(&operator.owner()).unwrap().account, caller.account);
        assert!(Access::PassThrough.again(&Access::PassThrough.operator().owner()).is_some());
        let own = Access::PassThrough.identify(Some(b"Bearer own"), None).unwrap();
        assert_eq!(Access::PassThrough.again(&own.owner()).unwrap().account, own.account);
        assert!(access.again(&own.owner()).is_none(), "it paid for itself, and would not now");
        assert!(Access::PassThrough.again(&caller.owner()).is_none(), "who would pay?");
        let kept = Account::from_bytes(own.account.to_bytes());
        assert_eq!(kept, own.account);
    }

    fn nonzero(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn accounts_and_models_have_quotas_of_their_own() {
        let caller =
            |header: &str| Access::PassThrough.identify(Some(header.as_bytes()), None).unwrap();
        let (one, other) = (caller("Bearer k-one"), caller("Bearer k-other"));
        assert_eq!(caller("bearer k-one").account, one.account);
        assert_ne!(one.account.quota("m"), other.account.quota("m"));
        assert_ne!(one.account.quota("m"), one.account.quota("n"));
        let shared = Access::Gateway(Vec::new());
        let [a, b] =
            ["Bearer x", "Bearer y"].map(|it| shared.identify(Some(it.as_bytes()), None).unwrap());
        assert_eq!(a.account, b.account, "one account, whoever calls");
        assert!(!format!("{one:?}").contains("k-one"), "a key is never shown");
    }
}
