//! What the gateway's address of services and the data planes agree on. A service is reached in two ways: by people at a host
//! of its own, so that its pages share no origin with anything else, with a cookie; and by programs below
//! `/{organization}/{project}/{name}/` of the address itself, with a bearer token and never with a cookie.

/// The cookie by which a browser reaches a service.
pub const COOKIE: &str = "howdah_service";
/// The same where the address is encrypted: no other host can set it.
pub const SECURE_COOKIE: &str = "__Host-howdah_service";
/// The header by which the gateway marks what came to the address of services. It removes it from everything else, so that
/// pages of user code are never shown at the address of the API.
pub const HEADER: &str = "howdah-services";
/// The path of services at a data plane: `/services/{project}/{name}/…`.
pub const PREFIX: &str = "/services/";
