//! The page as a whole: its parts, what it may not hold, and that no report breaks it.

use super::*;
use serde_json::json;

fn page(reports: &[(String, Report)]) -> String {
    let page = render(reports);
    check_tags(&page);
    page
}

/// Each element is closed in order, and each id is there once.
fn check_tags(page: &str) {
    const VOID: [&str; 5] = ["meta", "link", "input", "br", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap().trim_end_matches('/');
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "at {tag}; open: {open:?}");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        if let Some((_, id)) = tag.split_once(" id=\"") {
            ids.push(id.split_once('"').unwrap().0);
        }
        // What is in these is not markup.
        rest = if ["script", "style"].contains(&tag) {
            &after[after.find(&format!("</{tag}")).unwrap()..]
        } else {
            after
        };
    }
    assert!(open.is_empty(), "{open:?}");
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is there twice");
}

fn every_scenario() -> Vec<serde_json::Value> {
    let scenarios = ["echo", "rate", "idle", "broadcast", "churn", "storm", "attack"];
    scenarios.iter().map(|scenario| fixture::load(scenario, 1.0)).collect()
}

#[test]
fn a_page_shows_every_scenario_and_needs_nothing_else() {
    let page = page(&[fixture::whole("tour", every_scenario())]);
    for part in [
        "<title>tour: echo and 6 more · ringwire-loadgen</title>",
        "AMD EPYC 9654",
        "<span>--fail-if</span> <span>&#39;p99&gt;2ms&#39;</span>",
        "2026-11-20",
        "400,000/s",
        "not the latency at a given rate",
        "Latency to the last subscriber",
        "3 ok, 1 failed, 1 skipped",
        "✗ failed",
        "kernel slab per connection",
        "all back after",
        "prefers-color-scheme: dark",
        "@media print",
    ] {
        assert!(page.contains(part), "{part} is not on the page");
    }
    let loads = every_scenario().len();
    assert_eq!(page.matches("<section class=\"load\"").count(), loads);
    assert_eq!(page.matches("<h4>Latency by percentile</h4>").count(), loads - 1);
    for outside in ["src=", "@import", "url(", "<link rel=\"stylesheet\"", "fetch("] {
        assert!(!page.contains(outside), "{outside} is on the page");
    }
    // The namespace of SVG and the server's address are names, not places to load from.
    let http = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!http.contains("http://") && !http.contains("https://"));
}

#[test]
fn runs_are_compared_and_an_invalid_one_is_marked() {
    let mut late = fixture::load("rate", 3.0);
    fixture::invalidate(&mut late);
    let page = page(&[
        fixture::named("ours", fixture::load("rate", 1.0)),
        fixture::named("theirs", fixture::load("rate", 2.0)),
        fixture::named("late", late),
    ]);
    let row = |name: &str| {
        let row =
            page.split("<tr>").find(|row| row.contains(&format!("<th scope=\"row\">{name}</th>"))).unwrap();
        row.split("<td").skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let p99 = row("p99");
    assert!(!p99[0].contains("ratio"), "{p99:?}");
    assert!(p99[1].contains("class=\"ratio worse\" title=\"worse\">×2.0") && p99[1].contains('▼'), "{p99:?}");
    assert!(p99[2].starts_with(" class=\"invalid\"") && !p99[2].contains("ratio"), "{p99:?}");
    assert!(page.contains("class=\"line c2 invalid\""));
    assert!(page.contains("class=\"line c1\""));
    assert!(page.contains("C · late (invalid)"));
    assert!(
        page.contains("<li>the generator was late: the 99th percentile of send lag is above 1 ms; give it")
    );
}

#[test]
fn runs_that_were_not_made_alike_are_said_to_be_so() {
    let one = fixture::named("one", fixture::load("rate", 1.0));
    let mut larger = fixture::load("rate", 1.0);
    larger["message"]["size"] = "1024".into();
    let mut other = fixture::named("other", larger);
    assert!(!page(&[one.clone(), one.clone()]).contains("class=\"caution\""));
    other.1.host.kernel = "6.1.0".to_owned();
    let page = page(&[one, other]);
    assert!(page.contains("The runs were made on different hosts or kernels"));
    assert!(page.contains("<th scope=\"row\">messages <span class=\"differs\""));
    assert!(page.contains("<span><i>connections</i> 1,000</span>"));
    assert!(page.contains("| messages ≠ | 20 B text | 1024 B text |"));
}

#[test]
fn what_a_report_says_never_becomes_markup() {
    const NASTY: &str = "</script><script>alert(1)</script>\"'><img onerror=x {{js}} &";
    fn poison(value: &mut serde_json::Value, key: &str) {
        match value {
            // These are words that the shape knows.
            serde_json::Value::String(_) if ["verdict", "scenario", "hdr"].contains(&key) => {}
            serde_json::Value::String(text) => *text = NASTY.to_owned(),
            serde_json::Value::Array(values) => values.iter_mut().for_each(|value| poison(value, key)),
            serde_json::Value::Object(fields) => {
                fields.iter_mut().for_each(|(key, value)| poison(value, key))
            }
            _ => {}
        }
    }
    let mut value = fixture::report(every_scenario());
    value["loads"][0]["errors"]["notes"] = json!(["note"]);
    value["thresholds"] = json!([{"condition": "p99>2ms", "load": "rate", "measured": 1.0, "fails": false}]);
    poison(&mut value, "");
    let mut poisoned: Report = serde_json::from_value(value).unwrap();
    poisoned.loads[0].scenario = NASTY.to_owned();
    poisoned.loads[1].ramp.latency.hdr = NASTY.to_owned();
    let reports = [(NASTY.to_owned(), poisoned.clone()), ("other".to_owned(), poisoned)];
    for reports in [&reports[..1], &reports[..]] {
        let page = page(reports);
        assert_eq!(page.matches("<script").count(), 1);
        assert!(!page.contains("<img"));
        assert!(page.matches("&lt;/script&gt;").count() > 20);
    }
}

#[test]
fn odd_numbers_and_missing_parts_make_a_page_too() {
    let nothing = fixture::whole("nothing", vec![]);
    assert!(page(std::slice::from_ref(&nothing)).contains("nothing"));
    let mut odd = fixture::load("rate", 1.0);
    for point in odd["series"].as_array_mut().unwrap() {
        point["t_s"] = (-1e308).into();
        point["received_per_s"] = 1e308.into();
        point["p50_ns"] = u64::MAX.into();
        point["server_rss_bytes"] = u64::MAX.into();
        point["connections"] = 0.into();
    }
    odd["rate"]["latency"]["hdr"] = "!".into();
    odd["rate"]["latency"]["max_ns"] = u64::MAX.into();
    odd["rate"]["send_lag"]["count"] = 0.into();
    odd["ramp"]["duration_s"] = (-0.0).into();
    let odd = page(&[fixture::named("odd", odd), nothing]);
    assert!(odd.contains("no such load"));
    assert!(odd.contains("A histogram could not be read"));
    for bad in ["NaN", "inf%", "\"inf"] {
        assert!(!odd.contains(bad), "{bad} is on the page");
    }
}

#[test]
fn thresholds_say_what_was_measured() {
    let mut value = fixture::report(vec![fixture::load("rate", 1.0)]);
    value["thresholds"] = json!([
        {"condition": "p99>2ms", "load": "rate", "measured": 2.3456, "fails": true},
        {"condition": "losses>0", "load": "idle", "measured": null, "fails": false},
    ]);
    let page = page(&[("run".to_owned(), serde_json::from_value(value).unwrap())]);
    assert!(page.contains(
        "<td class=\"failed\">✗ failed</td><td><code>p99&gt;2ms</code></td><td>rate</td><td>2.35 ms</td>"
    ));
    assert!(page.contains("not measured by this load"));
}
