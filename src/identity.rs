//! Who asks: the caller's key becomes a tenant and an upstream account.
//!
//! # Invariants
//!
//! - A key is never kept or shown: only its SHA-256 is, and of that only a few digits are shown.
//! - Whether a key is right takes as long to find out whether it is nearly right or not at all.

use std::fmt;
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
}

/// The caller's key is missing or not one of those configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownKey;

impl Account {
    /// The account that the gateway's own key belongs to.
    const GATEWAY: Self = Self([0; 32]);

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
        write!(f, "Account({})", short(&self.0))
    }
}

impl Access {
    /// Identifies the caller by the value of its `Authorization` header.
    ///
    /// # Errors
    ///
    /// [`UnknownKey`] if keys are configured and this is none of them.
    pub fn identify(&self, authorization: Option<&[u8]>) -> Result<Caller, UnknownKey> {
        let digest: [u8; 32] = Sha256::digest(bearer(authorization.unwrap_or_default())).into();
        let plain = |tenant, account| Ok(Caller { tenant, account, heartbeats: true });
        match self {
            Self::PassThrough if authorization.is_none() => {
                plain("anonymous".into(), Account(digest))
            }
            Self::PassThrough => plain(short(&digest).into(), Account(digest)),
            Self::Gateway(keys) if keys.is_empty() => plain("default".into(), Account::GATEWAY),
            Self::Gateway(keys) => {
                // All of them are compared, whichever it is.
                let found = keys.iter().fold(None, |found, key| {
                    if bool::from(key.digest.ct_eq(&digest)) { Some(key) } else { found }
                });
                let key = found.ok_or(UnknownKey)?;
                let (tenant, account) = (Arc::clone(&key.name), Account::GATEWAY);
                Ok(Caller { tenant, account, heartbeats: key.heartbeats })
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

/// Eight hexadecimal digits: enough to tell callers apart, far too few to recognise a key by.
fn short(digest: &[u8]) -> String {
    let first = digest.iter().take(4).fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    format!("{first:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, key: &str) -> VirtualKey {
        VirtualKey { name: name.into(), digest: Sha256::digest(key).into(), heartbeats: true }
    }

    #[test]
    fn the_holder_of_a_configured_key_is_its_tenant() {
        let access = Access::Gateway(vec![key("a", "key-a"), key("b", "key-b")]);
        let tenant = |header: &[u8]| access.identify(Some(header)).map(|it| it.tenant.to_string());
        assert_eq!(tenant(b"Bearer key-b"), Ok("b".to_owned()));
        assert_eq!(tenant(b"bearer  key-a "), Ok("a".to_owned()));
        for wrong in [&b"Bearer key-"[..], b"Bearer key-aa", b"Bearer", b"", b"\xff\xfe"] {
            assert_eq!(tenant(wrong), Err(UnknownKey), "{wrong:?}");
        }
        assert!(access.identify(None).is_err());
    }

    #[test]
    fn accounts_and_models_have_quotas_of_their_own() {
        let caller = |header: &str| Access::PassThrough.identify(Some(header.as_bytes())).unwrap();
        let (one, other) = (caller("Bearer one"), caller("Bearer other"));
        assert_eq!(caller("bearer one").account, one.account);
        assert_ne!(one.account.quota("m"), other.account.quota("m"));
        assert_ne!(one.account.quota("m"), one.account.quota("n"));
        let shared = Access::Gateway(Vec::new());
        let [a, b] =
            ["Bearer x", "Bearer y"].map(|it| shared.identify(Some(it.as_bytes())).unwrap());
        assert_eq!(a.account, b.account, "one account, whoever calls");
        assert!(!format!("{one:?}").contains("one"), "a key is never shown");
    }
}
