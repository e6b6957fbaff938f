//! The services that the binary holds.

use runtime::{Entry, entry};

/// A service of the binary.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) entry: Entry,
    /// Whether it keeps data of its own in PostgreSQL.
    pub(crate) stores: bool,
}

/// All services, in the order in which they stop: each before those that it asks.
pub(crate) fn all() -> Vec<Part> {
    vec![
        Part { entry: entry::<kpc::Kpc>(), stores: false },
        Part { entry: entry::<dcx::Dcx>(), stores: false },
        Part { entry: entry::<epts::Epts>(), stores: true },
        Part { entry: entry::<epr::Epr>(), stores: true },
        Part { entry: entry::<cm::Cm>(), stores: true },
        Part { entry: entry::<tekton::Tekton>(), stores: true },
    ]
}

/// The names of all services, which are also their sections in the configuration.
pub(crate) fn names() -> Vec<&'static str> {
    all().iter().map(|part| part.entry.name).collect()
}

/// The services with these names, in the order in which they stop.
pub(crate) fn named(wanted: &[String]) -> Result<Vec<Part>, String> {
    let names = names();
    let unknown: Vec<&str> = wanted.iter().map(String::as_str).filter(|name| !names.contains(name)).collect();
    if unknown.is_empty() {
        return Ok(all()
            .into_iter()
            .filter(|part| wanted.iter().any(|name| name == part.entry.name))
            .collect());
    }
    Err(format!("no such service: {}; the services are {}", unknown.join(", "), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_keep_their_order() {
        let found = named(&["tekton".to_owned(), "kpc".to_owned()]).ok().unwrap();
        assert_eq!(found.iter().map(|part| part.entry.name).collect::<Vec<_>>(), ["kpc", "tekton"]);
        let error = named(&["kpc".to_owned(), "kcp".to_owned()]).err().unwrap();
        assert!(error.contains("kcp") && error.contains("tekton"), "{error}");
    }
}
