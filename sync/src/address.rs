//! Addresses of feeds: URLs and paths.

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, RetryConfig};
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

/// Opens the store that an address names: `s3://bucket/prefix`, `gs://`, `az://`, `https://`, `file://`, or
/// a path. Credentials and endpoints come from the environment.
pub(crate) fn open(address: &str) -> Result<Store> {
    let wrong = |what: &str| Error::Address { address: visible(address), what: what.into() };
    let Some((scheme, _)) = address.split_once("://") else {
        return open_directory(FilePath::new(address), address);
    };
    let url = Url::parse(address).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "credentials do not belong into an address: give them in the environment",
        ));
    }
    if scheme == "file" {
        let path = url.to_file_path().map_err(|()| wrong("it is no path of this machine"))?;
        return open_directory(&path, address);
    }
    if scheme == "memory" {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        return Ok(Store::new(inner, Path::default(), address.into()));
    }
    open_remote(&url, address)
}

/// An address without what may be secret in it.
fn visible(address: &str) -> String {
    match Url::parse(address) {
        Ok(mut url) => {
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.set_query(None);
            url.to_string()
        }
        Err(_) => address.into(),
    }
}

fn open_directory(path: &FilePath, address: &str) -> Result<Store> {
    let failed = |error| Error::io("opening the feed in", path, error);
    let path = &std::path::absolute(path).map_err(failed)?;
    let (place, prefix) = existing(path);
    if prefix.is_none() {
        std::fs::create_dir_all(path).map_err(failed)?;
    }
    // Without it a power cut could leave an empty record in a name that is never written again.
    let store = LocalFileSystem::new_with_prefix(place).map(|store| store.with_fsync(true));
    let store = store.map_err(|source| Error::Store {
        doing: "opening",
        object: address.into(),
        source,
    })?;
    Ok(Store::new(Arc::new(store), prefix.unwrap_or_default(), address.into()))
}

/// The directory that is there and what is below it, to be made with the first object: who only reads makes no directory.
/// Of names that stores write otherwise, none: then all of it is made.
fn existing(path: &FilePath) -> (&FilePath, Option<Path>) {
    let is_plain = |name: &str| {
        !name.starts_with('.')
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
    };
    let mut below = Vec::new();
    for place in path.ancestors() {
        if place.is_dir() {
            return (place, Some(below.into_iter().rev().collect()));
        }
        match place.file_name().and_then(|name| name.to_str()) {
            Some(name) if is_plain(name) => below.push(PathPart::from(name)),
            _ => break,
        }
    }
    (path, None)
}

/// The client's own limit is for a request with its body, whatever its size: a day. What stalls is noticed
/// where it is waited for.
const REQUEST_TIMEOUT: &str = "86400 seconds";

/// Whether an address is of this very machine, where nobody listens in.
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

#[cfg(feature = "net")]
fn open_remote(url: &Url, address: &str) -> Result<Store> {
    use object_store::{ClientConfigKey as Client, ObjectStoreScheme as Scheme};

    // The one who comes first wins, and it is the same for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wrong = |what: String| Error::Address { address: visible(address), what };
    let failed = |source| Error::Store { doing: "opening", object: visible(address), source };
    let (scheme, path) = Scheme::parse(url).map_err(|error| wrong(error.to_string()))?;
    let is_plain = url.scheme() == "http";
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
            let options = ClientOptions::new().with_allow_http(is_plain);
            let options = options.with_default_headers(headers);
            let options = options.with_config(Client::Timeout, REQUEST_TIMEOUT);
            let builder = object_store::http::HttpBuilder::new();
            let builder = builder.with_url(&url[..url::Position::BeforePath]);
            let builder = builder.with_client_options(options).with_retry(retry());
            Arc::new(builder.build().map_err(failed)?)
        }
        _ => return Err(wrong(format!("this program was built without '{}'", url.scheme()))),
    };
    Ok(Store::new(inner, path, visible(address)))
}

#[cfg(not(feature = "net"))]
fn open_remote(url: &Url, address: &str) -> Result<Store> {
    let what = format!("this program was built without '{}'", url.scheme());
    Err(Error::Address { address: visible(address), what })
}
