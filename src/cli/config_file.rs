//! `serve --config FILE`: the values of flags, in a TOML file under the same names.
//!
//! The file's values become the defaults of the flags. So they are checked and reported as if they had
//! been typed, and both the command line and the environment override them.

use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::Trouble;

/// Flags that a file cannot set: its own path, and those that replace serving.
const ELSEWHERE: [&str; 3] = ["config", "help", "version"];

/// The whole command, with the values of `file` as defaults of `serve`.
///
/// # Errors
/// If the file cannot be read, or something in it is invalid.
pub(super) fn as_defaults(command: Command, file: &Path) -> Result<Command, Trouble> {
    let shown = file.display();
    let text = fs::read_to_string(file)
        .map_err(|error| Trouble::Work(format!("cannot read {shown}: {error}")))?;
    let table: Table = text
        .parse()
        .map_err(|error| Trouble::Arguments(format!("{shown}: {error}")))?;
    table.iter().try_fold(command, |command, (key, value)| {
        set(command, key, value).map_err(|why| Trouble::Arguments(format!("{shown}: {key}: {why}")))
    })
}

/// Adds a default to the command: for a flag of `serve`, or for a global one.
fn set(command: Command, key: &str, value: &Value) -> Result<Command, String> {
    let named = |command: &'_ Command| {
        let mut arguments = command.get_arguments();
        arguments.find(|argument| is_named(argument, key)).cloned()
    };
    let own = command.find_subcommand("serve").and_then(named);
    let is_own = own.is_some();
    let Some(argument) = own.or_else(|| named(&command)) else {
        return Err("there is no such flag; bootstorm serve --help lists them".to_owned());
    };
    let id = argument.get_id().clone();
    let values = values(&argument, value)?;
    let with_default = move |argument: Arg| argument.default_values(values);
    Ok(if is_own {
        command.mut_subcommand("serve", |serve| serve.mut_arg(id, with_default))
    } else {
        command.mut_arg(id, with_default)
    })
}

fn is_named(argument: &Arg, key: &str) -> bool {
    let name = argument
        .get_long()
        .unwrap_or_else(|| argument.get_id().as_str());
    name == key && !ELSEWHERE.contains(&key)
}

/// A value as it would be typed; several, if the flag may be repeated.
fn values(argument: &Arg, value: &Value) -> Result<Vec<String>, String> {
    let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
    let is_repeatable = matches!(argument.get_action(), ArgAction::Append);
    match value {
        Value::Boolean(on) if is_switch => Ok(vec![on.to_string()]),
        _ if is_switch => Err("true or false is expected".to_owned()),
        Value::Array(values) if is_repeatable => values.iter().map(typed).collect(),
        Value::Array(_) => Err("one value is expected, and not a list".to_owned()),
        value => typed(value).map(|typed| vec![typed]),
    }
}

fn typed(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => Err("a text or a number is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{self, Serve};
    use super::super::parse;
    use super::*;

    /// The result of parsing a file with this text and these arguments for `serve`.
    fn told(text: &str, arguments: &[&str]) -> Result<Serve, String> {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("bootstorm.toml");
        fs::write(&file, text).expect("a file");
        let name = file.to_str().expect("a name");
        let before = ["bootstorm", "serve", "--config", name];
        let arguments = before.iter().chain(arguments);
        match parse(arguments.map(Into::into)) {
            Ok(args::Arguments {
                command: args::Command::Serve(serve),
                ..
            }) => Ok(*serve),
            Err(Trouble::Arguments(why)) => Err(why.replace(name, "FILE")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_says_what_flags_say_and_flags_win() {
        let text = r#"
            root = "/images"
            listen = ["127.0.0.1:0", "[::1]:0"]
            write = "create"
            max-windowsize = 16
            idle-timeout = 2.5
            single-port = true
            strict = false
            subnet = ["10.1.0.0/16:max-windowsize=4,max-blksize=1024"]
            log-format = "json"
        "#;
        let serve = told(text, &[]).expect("understood");
        assert_eq!(serve.root, Path::new("/images"));
        assert_eq!((serve.listen.len(), serve.subnet.len()), (2, 1));
        assert_eq!(serve.write, args::Write::Create);
        assert_eq!(serve.max_windowsize, 16);
        assert_eq!(serve.idle_timeout.as_millis(), 2_500);
        assert!(serve.single_port && !serve.strict);

        let flags = [
            "/other",
            "--listen",
            ":6969",
            "--write",
            "off",
            "--port-range",
            "5000:5009",
        ];
        let serve = told(text, &flags).expect("understood");
        assert_eq!(serve.root, Path::new("/other"));
        assert_eq!((serve.listen.len(), serve.write), (1, args::Write::Off));
        assert!(!serve.single_port, "a range of ports is the opposite");
        assert_eq!(serve.max_windowsize, 16, "of which nothing was said");
    }

    #[test]
    fn mistakes_name_the_file_and_the_setting() {
        let mistakes = [
            (
                "max-blocksize = 512",
                "FILE: max-blocksize: there is no such flag",
            ),
            ("config = \"other\"", "FILE: config: there is no such flag"),
            (
                "strict = \"yes\"",
                "FILE: strict: true or false is expected",
            ),
            ("write = [\"off\"]", "FILE: write: one value is expected"),
            (
                "write = { off = 1 }",
                "FILE: write: a text or a number is expected",
            ),
            (
                "max-windowsize = 0",
                "FILE: invalid value '0' for '--max-windowsize",
            ),
            ("strict", "FILE: TOML parse error at line 1"),
        ];
        for (text, expected) in mistakes {
            let why = told(text, &[]).expect_err(text);
            assert!(why.starts_with(expected), "{why}");
        }
    }
}
