//! Resource paths and their handlers.

use std::sync::Arc;

use crate::handler::{Answering, Handler};
use crate::message::Parameters;
use crate::{Message, Refusal};

/// The resource paths of an extension.
///
/// A path is written without the leading slash: `json`, `plain/{metric}` for one variable level, `json/{*rest}` for one
/// or more levels at the end, and the empty path for nothing behind the token. Slashes are significant (1/KP): `json/`
/// is not `json`. Routes are tried in the order of their declaration.
pub struct Routes<E> {
    routes: Vec<Route<E>>,
}

type Call<E> = Box<dyn Fn(Arc<E>, &Message) -> Answering + Send + Sync>;

struct Route<E> {
    path: &'static str,
    levels: Vec<Level>,
    call: Call<E>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Fixed(&'static str),
    Variable(&'static str),
    Rest(&'static str),
}

impl<E: Send + Sync + 'static> Routes<E> {
    pub(crate) fn new() -> Self {
        Self { routes: Vec::new() }
    }

    /// Adds a resource path and its handler.
    #[must_use]
    pub fn on<Arguments>(mut self, path: &'static str, handler: impl Handler<E, Arguments>) -> Self {
        let levels = if path.is_empty() { Vec::new() } else { path.split('/').map(Level::new).collect() };
        let call: Call<E> = Box::new(move |extension, message| handler.call(extension, message));
        self.routes.push(Route { path, levels, call });
        self
    }

    /// The declared paths, as they are announced: with the leading slash.
    pub(crate) fn paths(&self) -> Vec<String> {
        let with_slash =
            |route: &Route<E>| if route.path.is_empty() { String::new() } else { format!("/{}", route.path) };
        self.routes.iter().map(with_slash).collect()
    }

    /// Calls the handler of the message's path.
    pub(crate) fn call(&self, extension: Arc<E>, message: &mut Message) -> Result<Answering, Refusal> {
        for route in &self.routes {
            if let Some(parameters) = matches(&route.levels, &message.resource_path) {
                message.parameters = parameters;
                return Ok((route.call)(extension, message));
            }
        }
        let known: Vec<String> = self.paths().iter().map(|path| format!("'{path}'")).collect();
        let known = known.join(", ");
        Err(Refusal::not_found(format!(
            "no resource '{}' behind the token; there are: {known}",
            message.resource_path
        )))
    }
}

impl Level {
    fn new(level: &'static str) -> Self {
        match level.strip_prefix('{').and_then(|level| level.strip_suffix('}')) {
            Some(name) => name.strip_prefix('*').map_or(Self::Variable(name), Self::Rest),
            None => Self::Fixed(level),
        }
    }
}

/// The variable levels when the path fits. A variable level is never empty.
fn matches(levels: &[Level], resource_path: &str) -> Option<Parameters> {
    let mut rest = match resource_path.strip_prefix('/') {
        Some(rest) => Some(rest),
        None if resource_path.is_empty() => None,
        None => return None,
    };
    let mut parameters = Parameters::default();
    for level in levels {
        let path = rest?;
        if let Level::Rest(name) = level {
            parameters.0.push((name, path.to_owned()));
            return Some(parameters);
        }
        let (head, tail) = path.split_once('/').map_or((path, None), |(head, tail)| (head, Some(tail)));
        match level {
            Level::Fixed(fixed) if *fixed == head => {}
            Level::Variable(name) if !head.is_empty() => parameters.0.push((name, head.to_owned())),
            _ => return None,
        }
        rest = tail;
    }
    rest.is_none().then_some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(route: &'static str, path: &str) -> Option<Parameters> {
        let levels: Vec<Level> =
            if route.is_empty() { vec![] } else { route.split('/').map(Level::new).collect() };
        matches(&levels, path)
    }

    #[test]
    fn slashes_are_significant() {
        assert!(fits("json", "/json").is_some());
        for path in ["/json/", "json", "//json", "/", "", "/Json", "/json/a"] {
            assert!(fits("json", path).is_none(), "{path}");
        }
        assert!(fits("", "").is_some());
        assert!(fits("", "/").is_none());
    }

    #[test]
    fn variable_levels_are_named() {
        assert_eq!(fits("plain/{metric}", "/plain/temperature").unwrap().get("metric"), "temperature");
        assert!(fits("plain/{metric}", "/plain/").is_none());
        assert!(fits("plain/{metric}", "/plain/a/b").is_none());
        assert_eq!(fits("json/{*rest}", "/json/a/b").unwrap().get("rest"), "a/b");
        assert!(fits("json/{*rest}", "/json").is_none());
    }
}
