//! Who asks: the caller's key becomes a tenant and an upstream account.
//!
//! # Invariants
//!
//! - A key is never kept or shown: only its SHA-256 is, and of that only a few digits are shown.

mod keys;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::keys::{BadKey, Keys, ModelPattern, Previous, Terms, VirtualKey};
use crate::time::Timestamp;

/// Whose quota is spent: a digest of what identifies the account at the upstream.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Account([u8; 32]);

/// Who may call, and whose quota their calls spend.
#[derive(Clone, Debug)]
pub enum Access {
    /// Callers bring keys of the upstream; each key is an account of its own.
    PassThrough,
    /// The gateway holds the one account, and everybody may use it.
    Open,
    /// The gateway holds the one account, and only the holders of its keys may use it.
    Keys(Keys),
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
    /// What it may use; `None` for everything.
    pub terms: Option<Arc<Terms>>,
}

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
    /// A caller of which no more is known than whose quota it spends.
    const fn plain(tenant: Arc<str>, id: u64, account: Account) -> Self {
        let weight = NonZeroU32::MIN;
        Self { tenant, account, heartbeats: false, id, weight, class: None, terms: None }
    }

    /// The caller as an owner.
    pub fn owner(&self) -> Owner {
        Owner { tenant: Arc::clone(&self.tenant), id: self.id, account: self.account }
    }

    /// Whether it may use `model`.
    pub fn may_use(&self, model: &str) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.allow(model))
    }
}

impl From<&VirtualKey> for Caller {
    fn from(key: &VirtualKey) -> Self {
        let VirtualKey { heartbeats, weight, class, ref terms, .. } = *key;
        let plain = Self::plain(Arc::clone(&key.name), key.tenant(), Account::GATEWAY);
        Self { heartbeats, weight, class, terms: terms.clone(), ..plain }
    }
}

impl Account {
    /// The account that the gateway's own key belongs to.
    const GATEWAY: Self = Self([0; 32]);

    /// The account that a key of the gateway's own belongs to at a host.
    pub fn at(host: &str, key: &str) -> Self {
        let parts = ["at", host, key].map(Sha256::digest);
        Self(Sha256::digest(parts.concat()).into())
    }

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
            Self::Open | Self::Keys(_) => Account::GATEWAY,
        };
        Caller::plain("operator".into(), OPERATOR, account)
    }

    /// Identifies the caller by the value of its `Authorization` header, when it is `now` by the wall
    /// clock. Callers without a key of the gateway's own are tenants by that value, and by what a
    /// trusted header says of them (`told`).
    ///
    /// # Errors
    ///
    /// [`BadKey`] if only holders of keys may call, and this is none of them.
    pub fn identify(
        &self,
        authorization: Option<&[u8]>,
        told: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Caller, BadKey> {
        let digest: [u8; 32] = Sha256::digest(bearer(authorization.unwrap_or_default())).into();
        let plain = |nobody: &str, account| {
            let named = told.map(|told| Sha256::new().chain_update(digest).chain_update(told));
            let tenant: [u8; 32] = named.map_or(digest, |named| named.finalize().into());
            // Not the header's own words: they may be somebody's name.
            let unnamed = authorization.is_none() && told.is_none();
            let name = if unnamed { nobody.into() } else { Short::of(&tenant).as_str().into() };
            Ok(Caller { heartbeats: true, ..Caller::plain(name, id(&tenant), account) })
        };
        match self {
            Self::PassThrough => plain("anonymous", Account(digest)),
            Self::Open => plain("default", Account::GATEWAY),
            Self::Keys(keys) => keys.open(&digest, now).map(Caller::from),
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
            Self::Open if tenant == id(&nobody) => "default".to_owned(),
            Self::PassThrough | Self::Open => digits(),
            Self::Keys(keys) => keys.tenant(tenant).map_or_else(digits, |key| key.name.to_string()),
        }
    }

    /// The caller that an owner was, if it may still call `now`: its key may have been removed or
    /// revoked since, or the gateway have got an account of its own.
    pub fn again(&self, owner: &Owner, now: Timestamp) -> Option<Caller> {
        let Owner { tenant, id, account } = owner.clone();
        let plain = Caller::plain(tenant, id, account);
        match self {
            Self::PassThrough => account.is_callers().then_some(plain),
            Self::Open | Self::Keys(_) if account.is_callers() => None,
            Self::Open => Some(plain),
            Self::Keys(_) if id == OPERATOR => Some(plain),
            Self::Keys(keys) => {
                let key = keys.tenant(id).filter(|key| key.check(now).is_ok())?;
                Some(Caller { heartbeats: false, ..Caller::from(key) })
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
mod tests;
