use crate::pushlark;

#[tokio::test]
async fn completions_and_manual_pages_name_each_command() {
    let commands = ["status", "logs", "bill", "doctor", "dead-letters", "registrations", "import", "export"];
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = pushlark(&["shell", "completions", shell], &[]).await;
        assert_eq!(ran.code, 0, "{shell}: {}", ran.err);
        for command in commands {
            assert!(ran.out.contains(command), "{shell}: {command}");
        }
    }
    let page = pushlark(&["shell", "man"], &[]).await;
    assert!(page.code == 0 && page.out.contains(".TH pushlark 1"), "{}", page.out);
    let page = pushlark(&["shell", "man", "logs"], &[]).await;
    assert!(page.out.contains("\\-\\-follow"), "{}", page.out);
    let unknown = pushlark(&["shell", "man", "nothing"], &[]).await;
    assert_eq!((unknown.code, unknown.err.as_str()), (1, "pushlark: there is no command nothing\n"));
}

#[tokio::test]
async fn wrong_arguments_have_the_exit_code_two() {
    for arguments in [&["statuses"][..], &["logs", "--since", "yesterday"], &["bill", "--days", "0"], &[]] {
        let ran = pushlark(arguments, &[]).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}");
    }
}
