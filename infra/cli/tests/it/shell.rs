//! `shell`: completions and manual pages; exit codes of wrong arguments.

use crate::run_alone;

#[tokio::test]
async fn completions_and_manual_pages_name_each_command() {
    let commands = ["status", "logs", "bill", "doctor", "dead-letters", "registrations", "import", "export"];
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run_alone(&["shell", "completions", shell]).await;
        assert_eq!(ran.code, Some(0), "{shell}: {}", ran.stderr);
        for command in commands {
            assert!(ran.stdout.contains(command), "{shell}: {command}");
        }
    }
    let page = run_alone(&["shell", "man"]).await;
    assert!(page.code == Some(0) && page.stdout.contains(".TH pushlark 1"), "{}", page.stdout);
    let page = run_alone(&["shell", "man", "logs"]).await.printed();
    let header = format!(".TH pushlark-logs 1  \"pushlark {}\"", env!("CARGO_PKG_VERSION"));
    assert!(page.contains("\\-\\-follow") && page.contains(&header), "{page}");
    let unknown = run_alone(&["shell", "man", "nothing"]).await;
    assert_eq!((unknown.code, unknown.stderr.as_str()), (Some(2), "pushlark: there is no command nothing\n"));
}

#[tokio::test]
async fn wrong_arguments_have_the_exit_code_two() {
    for arguments in [
        &["statuses"][..],
        &["logs", "--since", "yesterday"],
        &["bill", "--days", "0"],
        &["--local=http://u:p@h", "status"],
        &[],
    ] {
        let ran = run_alone(arguments).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}");
    }
}
