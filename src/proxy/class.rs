//! Which class a request belongs to: what it says itself, else what its body says of the service
//! tier, else what its key says, else what is configured.

use http::{HeaderMap, HeaderName};

use crate::config::Classes;
use crate::identity::Caller;
use crate::proxy::error::ProxyError;
use crate::usage::ServiceTier;

static CLASS: HeaderName = HeaderName::from_static("x-tidegate-class");

/// The index of the request's class.
///
/// # Errors
///
/// [`ProxyError::Header`] if the request names a class that there is not.
pub(super) fn class_of(
    headers: &HeaderMap,
    tier: Option<ServiceTier>,
    caller: &Caller,
    classes: &Classes,
) -> Result<usize, ProxyError> {
    if let Some(value) = headers.get(&CLASS) {
        let class = value.to_str().ok().and_then(|name| classes.index(name.trim()));
        let expected = "the name of a configured class (such as interactive, standard or batch)";
        return class.ok_or(ProxyError::Header { name: CLASS.as_str(), expected });
    }
    // A tier stands for the class of that meaning, where there is one: it is the upstream's word, and
    // not an error if nobody here cares.
    let tier = match tier {
        Some(ServiceTier::Flex) => classes.index("batch"),
        Some(ServiceTier::Priority) => classes.index("interactive"),
        Some(ServiceTier::Auto | ServiceTier::Default | ServiceTier::Other) | None => None,
    };
    Ok(tier.or(caller.class).unwrap_or_else(|| classes.default()))
}
