//! The users of NATS: one for each service, with the least permissions that it needs.

use std::collections::BTreeMap;

use ids::InstanceName;
use runtime::NatsUser;

use crate::cli::NatsConfig;
use crate::services;
use crate::settings::fault;

/// The users of all services of the platform, of the edge that checks credentials, and of extensions of other teams.
pub(crate) fn users(extensions: &[InstanceName]) -> anyhow::Result<Vec<NatsUser>> {
    let mut users = runtime::nats_users(&services::all())?;
    let subjects = extension::subjects();
    users.extend(extensions.iter().map(|name| NatsUser::new(name, &subjects)));
    Ok(users)
}

/// The names of extensions, none of which may be a service's.
pub(crate) fn extension_names(names: &[String]) -> anyhow::Result<Vec<InstanceName>> {
    let taken = runtime::nats_users(&services::all())?;
    let mut extensions = Vec::new();
    for name in names {
        let parsed = InstanceName::parse(name).map_err(|error| fault("--extension", error.to_string()))?;
        if taken.iter().any(|user| user.name == *name) {
            return Err(fault(
                "--extension",
                format!("{name} is a service of the platform: choose another name"),
            )
            .into());
        }
        extensions.push(parsed);
    }
    Ok(extensions)
}

/// The block `authorization` of a nats-server's configuration; `password` gives the value for a user.
pub(crate) fn authorization(users: &[NatsUser], password: impl Fn(&str) -> String) -> String {
    format!("authorization {{\n  users: [\n{}  ]\n}}\n", runtime::nats_authorization(users, password))
}

/// The environment variable that holds a user's password in a cluster.
fn variable(user: &str) -> String {
    let character = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
    format!("BANDAR_NATS_{}", user.to_ascii_uppercase().chars().map(character).collect::<String>())
}

/// `bandar nats-config`: prints the block for a cluster's nats-server, whose passwords come from its environment.
pub(crate) fn nats_config(arguments: &NatsConfig) -> anyhow::Result<()> {
    let users = users(&extension_names(&arguments.extensions)?)?;
    check_variables(&users)?;
    crate::say(&cluster(&users))
}

/// Two users with one variable would have one password, and each could speak as the other.
fn check_variables(users: &[NatsUser]) -> anyhow::Result<()> {
    let mut known = BTreeMap::new();
    for user in users {
        let variable = variable(&user.name);
        if let Some(other) = known.insert(variable.clone(), &user.name) {
            let message =
                format!("{other} and {} would share the password in {variable}: rename one", user.name);
            return Err(fault("--extension", message).into());
        }
    }
    Ok(())
}

fn cluster(users: &[NatsUser]) -> String {
    let head = "# Printed by `bandar nats-config`: one user for each service, with its subjects only. Include it in the configuration of\n\
                # nats-server. Each password is in the server's environment; it must begin with a letter.\n";
    format!("{head}{}", authorization(users, |user| format!("${}", variable(user))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_user() {
        let users = users(&extension_names(&["echo".to_owned()]).unwrap()).unwrap();
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        for service in services::names() {
            assert!(names.contains(&service), "{service}");
        }
        assert!(names.contains(&"edge") && names.contains(&"echo"));
        let text = authorization(&users, |user| format!("${}", variable(user)));
        assert!(text.contains(r#"user: "echo", password: $BANDAR_NATS_ECHO"#), "{text}");
        assert!(text.contains(r#""kaa.v1.service.echo.esp.ClientData""#), "{text}");
    }

    #[test]
    fn only_the_token_register_answers_whose_a_token_is() {
        let allowed = |user: &NatsUser| {
            let answer = "kaa.v1.replica.*.ecap.*.ep-token-response";
            user.permissions.publish.iter().any(|subject| subject == answer)
        };
        let users = users(&[]).unwrap();
        let allowed: Vec<&str> =
            users.iter().filter(|user| allowed(user)).map(|user| user.name.as_str()).collect();
        assert_eq!(allowed, ["cm"]);
    }

    #[test]
    fn nobody_may_do_everything() {
        for user in users(&[]).unwrap() {
            for subject in user.permissions.publish.iter().chain(&user.permissions.subscribe) {
                let first = subject.split('.').next().unwrap_or_default();
                assert!(!["*", ">"].contains(&first), "{}: {subject}", user.name);
                assert!(subject != "kaa.>" && subject != "$JS.>", "{}: {subject}", user.name);
            }
        }
    }

    #[test]
    fn the_users_in_deploy_are_these() {
        let kept = include_str!("../../../deploy/nats/authorization.conf");
        assert!(
            cluster(&users(&[]).unwrap()) == kept,
            "run `bandar nats-config > deploy/nats/authorization.conf`"
        );
    }

    #[test]
    fn an_extension_takes_no_service_s_name() {
        assert!(extension_names(&["cm".to_owned()]).is_err());
        assert!(extension_names(&["edge".to_owned()]).is_err());
        assert!(extension_names(&["a.b".to_owned()]).is_err());
    }

    #[test]
    fn no_two_users_share_a_password() {
        let check = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            check_variables(&users(&extension_names(&names).unwrap()).unwrap())
        };
        check(&["a-b", "a-c", "a~d"]).unwrap();
        assert_eq!(variable("a~d"), "BANDAR_NATS_A_D");
        for twice in [["a-b", "a_b"], ["echo", "Echo"], ["a", "a"]] {
            let error = check(&twice).unwrap_err().to_string();
            assert!(error.contains("BANDAR_NATS_"), "{error}");
        }
        assert!(check(&["KPC"]).is_err());
    }
}
