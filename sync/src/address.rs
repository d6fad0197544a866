//! Addresses of feeds: URLs and paths.

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::{Path, PathPart};
use object_store::ObjectStore;
use url::Url;

use crate::error::{Error, Result};
use crate::store::Store;

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
    #[cfg(feature = "net")]
    return crate::remote::open(&url, &visible(address));
    #[cfg(not(feature = "net"))]
    Err(wrong(&format!("this program was built without '{scheme}'")))
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
        // Where anything may be, nothing is shown.
        Err(_) => match address.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…"),
            None => address.into(),
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_credentials_also_where_it_cannot_be_read() {
        for address in [
            "https://user:SECRET@host:99999/run",
            "https://user:SECRET@host/run",
            "s3://key:SECRET@/run",
            "https://[host/run?sig=SECRET",
        ] {
            let error = open(address).unwrap_err();
            assert_eq!(error.kind(), "address", "{address}");
            assert!(!format!("{error} {error:?}").contains("SECRET"), "{error:?}");
        }
    }
}
