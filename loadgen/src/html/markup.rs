//! Text that becomes part of a page. What comes from a file passes [`escape`], in text and in attributes.

/// Text as HTML, fit for attributes in double quotes as well.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(char),
            // Not allowed in HTML, and a terminal would obey them.
            _ if char.is_control() => escaped.push('\u{fffd}'),
            _ => escaped.push(char),
        }
    }
    escaped
}

/// Text for a terminal and for one line: no control characters.
pub fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// A template with each `{{name}}` replaced, once: what was put in is not looked at again.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut page =
        String::with_capacity(template.len() + values.iter().map(|value| value.1.len()).sum::<usize>());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(before);
        page.push_str(values.iter().find(|value| value.0 == name).map_or("", |value| value.1));
        rest = after;
    }
    page + rest
}

/// An argument as it is given to a shell.
pub fn shell(argument: &str) -> String {
    let harmless = |char: char| char.is_ascii_alphanumeric() || "_@%+=:,./-".contains(char);
    if !argument.is_empty() && argument.chars().all(harmless) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        let nasty = "</script><img src=x onerror=\"alert('1')\">&amp;\u{1b}[31m";
        let escaped = escape(nasty);
        assert_eq!(
            escaped,
            "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;amp;\u{fffd}[31m"
        );
        assert_eq!(plain("red\u{1b}[31m\nnext"), "red [31m next");
    }

    #[test]
    fn values_are_put_in_once() {
        assert_eq!(fill("<{{a}}|{{b}}|{{none}}>", &[("a", "{{b}}"), ("b", "B")]), "<{{b}}|B|>");
    }

    #[test]
    fn arguments_are_quoted_where_a_shell_would_change_them() {
        let quoted = ["loadgen", "--fail-if", "p99>2ms", "it's", ""].map(shell);
        assert_eq!(quoted.join(" "), r"loadgen --fail-if 'p99>2ms' 'it'\''s' ''");
    }
}
