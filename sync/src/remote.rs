//! Stores behind a network: S3 and what speaks it, Azure, Google, and web servers to read from.

use std::sync::Arc;

use object_store::{
    ClientConfigKey as Client, ObjectStore, ObjectStoreScheme as Scheme, RetryConfig,
};
use url::Url;

use crate::error::{Error, Result};
use crate::store::Store;

/// How often the client of a store tries by itself. Those who call try longer, and know what for.
fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: 2,
        retry_timeout: std::time::Duration::from_secs(20),
        ..RetryConfig::default()
    }
}

/// The client's own limit is for a request with its body, whatever its size: a day. What stalls is noticed
/// where it is waited for.
const REQUEST_TIMEOUT: &str = "86400 seconds";

/// Whether an address is of this very machine, where nobody listens in.
#[cfg(any(feature = "aws", feature = "azure"))]
fn is_loopback(address: &str) -> bool {
    let url = Url::parse(address).ok();
    let host = url.as_ref().and_then(Url::host_str);
    host.is_some_and(|host| ["127.0.0.1", "localhost", "[::1]"].contains(&host))
}

/// The value of the first of these variables that is set.
#[cfg(any(feature = "aws", feature = "azure"))]
fn variable(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok())
}

/// Opens the store of a URL; `address` is what messages call it.
pub(crate) fn open(url: &Url, address: &str) -> Result<Store> {
    // The one who comes first wins, and it is the same for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wrong = |what: String| Error::Address { address: address.into(), what };
    let failed = |source| Error::Store { doing: "opening", object: address.into(), source };
    let (scheme, path) = Scheme::parse(url).map_err(|error| wrong(error.to_string()))?;
    let inner: Arc<dyn ObjectStore> = match scheme {
        #[cfg(feature = "aws")]
        Scheme::AmazonS3 => {
            use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
            let mut builder =
                AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry());
            let endpoint = variable(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
            if endpoint.is_some_and(|endpoint| is_loopback(&endpoint)) {
                builder = builder.with_allow_http(true);
            }
            if variable(&["AWS_TIMEOUT"]).is_none() {
                builder = builder.with_config(Key::Client(Client::Timeout), REQUEST_TIMEOUT);
            }
            Arc::new(builder.build().map_err(failed)?)
        }
        #[cfg(feature = "azure")]
        Scheme::MicrosoftAzure => {
            use object_store::azure::{AzureConfigKey as Key, MicrosoftAzureBuilder};
            let mut builder =
                MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry());
            let endpoint = variable(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]);
            if endpoint.is_some_and(|endpoint| is_loopback(&endpoint)) {
                builder = builder.with_allow_http(true);
            }
            if variable(&["AZURE_TIMEOUT"]).is_none() {
                builder = builder.with_config(Key::Client(Client::Timeout), REQUEST_TIMEOUT);
            }
            Arc::new(builder.build().map_err(failed)?)
        }
        #[cfg(feature = "gcp")]
        Scheme::GoogleCloudStorage => {
            use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as Key};
            let builder =
                GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry());
            let builder = builder.with_config(Key::Client(Client::Timeout), REQUEST_TIMEOUT);
            Arc::new(builder.build().map_err(failed)?)
        }
        #[cfg(feature = "http")]
        Scheme::Http => {
            use object_store::{ClientOptions, HeaderMap, HeaderValue};
            // What a cache on the way has kept is older than what is asked for.
            let fresh = HeaderValue::from_static("no-cache");
            let headers = HeaderMap::from_iter([(http::header::CACHE_CONTROL, fresh)]);
            let options = ClientOptions::new().with_allow_http(url.scheme() == "http");
            let options = options.with_default_headers(headers);
            let options = options.with_config(Client::Timeout, REQUEST_TIMEOUT);
            let builder = object_store::http::HttpBuilder::new();
            let builder = builder.with_url(&url[..url::Position::BeforePath]);
            let builder = builder.with_client_options(options).with_retry(retry());
            Arc::new(builder.build().map_err(failed)?)
        }
        _ => return Err(wrong(format!("this program was built without '{}'", url.scheme()))),
    };
    Ok(Store::new(inner, path, address.into()))
}
