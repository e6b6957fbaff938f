//! The services that the binary holds.

use runtime::{Entry, entry};

/// All services, in the order in which they stop: each before those that it asks.
pub(crate) fn all() -> Vec<Entry> {
    vec![
        entry::<kpc::Kpc>(),
        entry::<cex::Cex>(),
        entry::<dcx::Dcx>(),
        entry::<epmx::Epmx>(),
        entry::<epl::Epl>(),
        entry::<epts::Epts>(),
        entry::<epr::Epr>(),
        entry::<cm::Cm>(),
        entry::<ccm::Ccm>(),
        entry::<tekton::Tekton>(),
        entry::<tm::Tm>(),
    ]
}

/// The names of all services, which are also their sections in the configuration.
pub(crate) fn names() -> Vec<&'static str> {
    all().iter().map(|entry| entry.name).collect()
}

/// The services with these names, in the order in which they stop.
pub(crate) fn named(wanted: &[String]) -> Result<Vec<Entry>, String> {
    let names = names();
    let unknown: Vec<&str> = wanted.iter().map(String::as_str).filter(|name| !names.contains(name)).collect();
    if unknown.is_empty() {
        return Ok(all().into_iter().filter(|entry| wanted.iter().any(|name| name == entry.name)).collect());
    }
    Err(format!("no such service: {}; the services are {}", unknown.join(", "), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_keep_their_order() {
        let found = named(&["tekton".to_owned(), "kpc".to_owned()]).ok().unwrap();
        assert_eq!(found.iter().map(|entry| entry.name).collect::<Vec<_>>(), ["kpc", "tekton"]);
        let error = named(&["kpc".to_owned(), "kcp".to_owned()]).err().unwrap();
        assert!(error.contains("kcp") && error.contains("tekton"), "{error}");
    }
}
