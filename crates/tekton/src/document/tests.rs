use super::*;

fn application(name: &str) -> ApplicationName {
    ApplicationName::parse(name).unwrap()
}

fn scope(version: Option<&str>) -> Scope {
    match version {
        None => Scope::Application(application("app")),
        Some(version) => Scope::Version(application("app"), AppVersionName::parse(version).unwrap()),
    }
}

fn versions() -> Vec<String> {
    vec!["app-v1".to_owned(), "app-v2".to_owned()]
}

fn blocks(scope: &Scope, body: Value) -> Result<Blocks, Fault> {
    scope.replace(scope.nodes(body)?, &versions())
}

fn read(version: Option<&str>, body: Value) -> Result<Value, Fault> {
    let scope = scope(version);
    blocks(&scope, body).map(|blocks| scope.document(blocks))
}

#[test]
fn a_document_read_and_written_again_is_the_same() {
    let body = json!({
        "dcx": {"kaa": {"applications": {"app": {"a": 1}}}},
        "epts": {"kaa": {"applications": {"app": {"b": [null], "versions": {"app-v1": {"c": {}}, "app-v2": {}}}}}},
        "kpc": {"kaa": {"applications": {"app": {"versions": {"app-v1": {}}}}}},
    });
    assert_eq!(read(None, body.clone()), Ok(body));
}

#[test]
fn dotted_keys_mean_the_same_as_nested_ones() {
    let nested = json!({"dcx": {"kaa": {"applications": {"app": {"a.b": 1}}}}});
    for body in [
        json!({"dcx": {"kaa.applications.app": {"a.b": 1}}}),
        json!({"dcx": {"kaa.applications": {"app": {"a.b": 1}}}}),
        json!({"dcx": {"kaa": {"applications.app": {"a.b": 1}}}}),
    ] {
        assert_eq!(read(None, body), Ok(nested.clone()));
    }
    let version = json!({"dcx": {"kaa": {"applications": {"app": {"versions": {"app-v1": {"a": 1}}}}}}});
    for body in [
        json!({"dcx": {"kaa.applications.app": {"versions": {"app-v1": {"a": 1}}}}}),
        json!({"dcx": {"kaa.applications.app.versions.app-v1": {"a": 1}}}),
    ] {
        assert_eq!(read(Some("app-v1"), body.clone()), Ok(version.clone()));
        assert_eq!(read(None, body), Ok(version.clone()));
    }
}

#[test]
fn absent_configuration_is_no_block() {
    for body in [json!({}), json!({"dcx": null}), json!({"dcx": {}}), json!({"dcx": {"kaa": {}}})] {
        assert_eq!(read(None, body), Ok(json!({})));
    }
}

#[test]
fn faults_name_the_place() {
    let fault = |version, body| read(version, body).unwrap_err().to_string();
    assert!(fault(None, json!([])).contains("JSON object"));
    assert!(fault(None, json!({"a.b": {}})).contains("a.b"));
    let other = json!({"dcx": {"kaa": {"applications": {"other": {}}}}});
    assert!(fault(None, other).contains("kaa.applications.app"));
    let beside = json!({"dcx": {"kaa": {"applications": {"app": {}}}, "x": 1}});
    assert!(fault(None, beside).contains("nothing beside"));
    assert!(fault(None, json!({"dcx": {"kaa.applications.app": 5}})).contains("JSON object"));
    let unknown = json!({"dcx": {"kaa.applications.app": {"versions": {"app-v9": {}}}}});
    assert!(fault(None, unknown).contains("app-v9"));
    let level = json!({"dcx": {"kaa.applications.app": {"a": 1}}});
    assert!(fault(Some("app-v1"), level).contains("versions.app-v1"));
}

#[test]
fn a_patch_merges_into_named_instances_only() {
    let scope = scope(None);
    let document = json!({
        "dcx": {"kaa": {"applications": {"app": {"a": {"x": 1, "y": 2}, "versions": {"app-v1": {"v": 1}}}}}},
        "epts": {"kaa": {"applications": {"app": {"e": 1}}}},
    });
    let before = blocks(&scope, document).unwrap();
    let dcx = [InstanceName::parse("dcx").unwrap()];
    let patch = |body: Value| {
        let nodes = scope.patch_nodes(&dcx, body)?;
        scope.merge(before.clone(), nodes, &versions())
    };
    let change =
        json!({"kaa.applications.app": {"a": {"x": null, "z": 3}, "versions": {"app-v2": {"v": 2}}}});
    let after = patch(change.clone()).unwrap();
    let expected = json!({"a": {"y": 2, "z": 3}, "versions": {"app-v1": {"v": 1}, "app-v2": {"v": 2}}});
    assert_eq!(scope.document(after.clone())["dcx"]["kaa"]["applications"]["app"], expected);
    assert_eq!(scope.document(after)["epts"], scope.document(before.clone())["epts"]);

    assert!(matches!(patch(json!({ "epts": change })), Err(Fault::Form { .. })));
    let both = json!({"dcx": {}, "epts": {"kaa.applications.app": {}}});
    assert!(matches!(patch(both), Err(Fault::NotNamed { .. })));
    // What says nothing changes nothing; only null removes.
    for nothing in [json!({"dcx": {}}), json!({}), json!({"dcx": {"kaa": {}}})] {
        assert_eq!(patch(nothing), Ok(before.clone()));
    }
    for all in [json!({"dcx": null}), json!({"dcx": {"kaa.applications.app": null}})] {
        assert_eq!(scope.document(patch(all).unwrap()).as_object().unwrap().len(), 1);
    }
}

#[test]
fn a_tenant_has_one_block_for_each_service_instance() {
    let scope = Scope::Tenant(TenantId::parse("acme").unwrap());
    let document = json!({"kpc": {"kaa": {"tenants": {"acme": {"config": {"versions": {"any": 1}}}}}}});
    let read = blocks(&scope, document.clone()).unwrap();
    assert_eq!(read.keys().map(|(_, level)| level).collect::<Vec<_>>(), [&Level::Tenant]);
    assert_eq!(scope.document(read), document);
    let dotted = json!({"kpc": {"kaa.tenants.acme.config": {"versions": {"any": 1}}}});
    assert_eq!(scope.document(blocks(&scope, dotted).unwrap()), document);
    let other = json!({"kpc": {"kaa.tenants.other.config": {}}});
    assert!(blocks(&scope, other).unwrap_err().to_string().contains("kaa.tenants.acme.config"));
    let beside = json!({"kpc": {"kaa.tenants.acme": {"config": {}, "x": {}}}});
    assert!(matches!(blocks(&scope, beside), Err(Fault::Form { .. })));
    assert!(matches!(
        blocks(&scope, json!({"kpc": {"kaa.tenants.acme.config": 1}})),
        Err(Fault::NotABlock { .. })
    ));
}

#[test]
fn a_document_of_many_applications_is_read_and_written() {
    let document = json!({
        "dcx": {"kaa": {"applications": {"app": {"a": 1}, "app2": {"b": 2}}}},
        "epts": {"kaa": {"applications": {"app": {"versions": {"app-v1": {"c": 3}}}}}},
    });
    let all = nodes_of_all(document.clone()).unwrap();
    assert_eq!(all.keys().map(ApplicationName::as_str).collect::<Vec<_>>(), ["app", "app2"]);
    let blocks = all.into_iter().map(|(name, nodes)| {
        let blocks = Scope::Application(name.clone()).replace(nodes, &versions()).unwrap();
        (name, blocks)
    });
    assert_eq!(document_of_all(blocks.collect()), document);
    assert!(matches!(nodes_of_all(json!({"dcx": null})), Err(Fault::Form { .. })));
    assert!(matches!(
        nodes_of_all(json!({"dcx": {"kaa.applications.A": {}}})),
        Err(Fault::Application { .. })
    ));
}

#[test]
fn tags_tell_contents_apart() {
    let tag_of = |value: Value| tag(&value);
    assert_eq!(tag_of(json!({"a": 1, "b": 2})), tag_of(json!({"b": 2, "a": 1})));
    assert_ne!(tag_of(json!({"a": 1})), tag_of(json!({"a": 2})));
    assert_eq!(tag_of(json!({})).len(), 32);
}

#[test]
fn what_is_nested_too_deep_to_be_read_again_is_refused() {
    let dotted = |dots: usize| json!({"dcx": {format!("kaa.applications.app{}", ".x".repeat(dots)): 1}});
    let too_deep = Fault::TooDeep { instance: InstanceName::parse("dcx").unwrap() };
    assert!(read(None, dotted(97)).is_ok());
    // Half a million levels: walking along them, even to drop them, would take more stack than there is.
    for dots in [98, 500_000] {
        assert_eq!(read(None, dotted(dots)), Err(too_deep.clone()), "{dots}");
        assert_eq!(nodes_of_all(dotted(dots)), Err(too_deep.clone()), "{dots}");
    }
    let named = [InstanceName::parse("dcx").unwrap()];
    let patch = json!({format!("kaa.applications.app{}", ".x".repeat(500_000)): 1});
    assert_eq!(scope(None).patch_nodes(&named, patch), Err(too_deep));
}
