//! What is wrong in the settings file is told with its line, what it means as well as how it is written.

use super::{ADDRESS, API_BASE, SIMULATED, quiet, refused, stopped};

/// Stands before each table of [`TABLES`]: ten lines, the last two of which begin the table of the site blog.
const SITE: &str = "# sites\n[[mini_program]]\nappid = \"wx1\"\nsecret = \"x\"\n\n[[client]]\nclient_id = \"shop\"\n\n[[client]]\nclient_id = \"blog\"\n";

const CALLBACK: &str = "such as https://blog.example/callback";

/// What follows, the line that is told of it, and the words. The line is that of the setting, or of the nearest that is there.
const TABLES: &[(&str, usize, &[&str])] = &[
    (
        "redirect_uris = [\n  \"https://blog.example/a\",\n  \"https://blog.example/b#c\",\n]",
        13,
        &["client blog: redirect_uris", "no fragment", CALLBACK],
    ),
    (
        "redirect_uris = [\"http://blog.example/\"]",
        11,
        &["client blog: redirect_uris", "must be https", CALLBACK],
    ),
    (
        "redirect_uris = [\"blog.example\"]",
        11,
        &["client blog: redirect_uris", "is no address", CALLBACK],
    ),
    (
        "redirect_uris = [\"https://*.blog.example/callback\"]",
        11,
        &["client blog: redirect_uris", "matched exactly", CALLBACK],
    ),
    (
        "name = \"Blog\"\nlogo_url = \"logo.png\"",
        12,
        &["client blog: logo_url: \"logo.png\" is no address; such as https://blog.example/logo.png"],
    ),
    (
        "logo_url = \"http://blog.example/logo.png\"",
        11,
        &[
            "client blog: logo_url",
            "must be https",
            "such as https://blog.example/logo.png",
        ],
    ),
    (
        "\norigins = [\"https://blog.example\", \"blog.example\"]",
        12,
        &[
            "client blog: origins: \"blog.example\"",
            "such as https://login.example",
        ],
    ),
    (
        "number_matching = true",
        11,
        &["number_matching: it must be one of `off`, `on`, `on_warning`"],
    ),
    (
        "subject_type = \"pair\"",
        11,
        &["subject_type: unknown variant `pair`, expected `public` or `pairwise`"],
    ),
    (
        "entry_scenes = { 1048 = \"no\" }",
        11,
        &["entry_scenes.1048: unknown variant `no`, expected one of `allow`, `warn`, `refuse`"],
    ),
    ("name = 5", 11, &["name: it must be text in quotes"]),
    (
        "mini_program = \"wx2\"",
        11,
        &[
            "client blog: mini_program \"wx2\" is not configured",
            "[[mini_program]]",
        ],
    ),
    (
        "webhook_secret = \"whsec_x\"\nwebhook_url = \"http://blog.example/canary-2f7c9a\"",
        12,
        &[
            "client blog: webhook_url must be https",
            "such as https://blog.example/webhook",
        ],
    ),
    (
        "webhook_url = \"https://blog.example/canary-2f7c9a\"\nwebhook_secret = \"whsec_canary-2f7c9a\"",
        12,
        &["client blog: webhook_secret must be whsec_"],
    ),
    (
        "webhook_url = \"https://blog.example/canary-2f7c9a\"",
        11,
        &["client blog: webhook_secret is missing"],
    ),
    (
        "client_secret_file = \"/nowhere/secret\"",
        11,
        &["client blog: client_secret_file: /nowhere/secret can't be read"],
    ),
    (
        "client_secret_file = \"/dev/null\"",
        11,
        &["client blog: client_secret_file: /dev/null is empty"],
    ),
    (
        "entry_scenes = { 1047 = \"allow\", camera = \"warn\" }",
        11,
        &["client blog: entry_scenes: \"camera\""],
    ),
    (
        "subject_type = \"pairwise\"",
        11,
        &["client blog: subject_type", "SCANLOGIN_PAIRWISE_SECRET"],
    ),
    ("client_id = \"blog\"", 11, &["duplicate key"]),
    (
        "[[client]]\nclient_id = \"shop\"",
        12,
        &["two clients have the client_id \"shop\", the other in line 7"],
    ),
    (
        "[[mini_program]]\nappid = \"wx1\"\nsecret = \"x\"",
        12,
        &["two mini_programs have the appid \"wx1\", the other in line 3"],
    ),
    (
        "[[mini_program]]\nappid = \"wx2\"",
        11,
        &["mini_program wx2: secret is missing"],
    ),
    (
        "[[mini_program]]\nappid = \"wx2\"\nsecret_file = \"/nowhere/secret\"",
        13,
        &["mini_program wx2: secret_file: /nowhere/secret can't be read"],
    ),
    (
        "[[mini_program]]\nappid = \"wx2\"\nsecret = \"x\"\nlink_prefix = \"http://blog.example/s/\"",
        14,
        &[
            "mini_program wx2: link_prefix",
            "must be https and end with /s/",
            "such as https://login.example/s/",
        ],
    ),
    (
        "[[mini_program]]\nappid = \"wx2\"\nsecret = \"x\"\nname = \" \"",
        14,
        &["mini_program wx2: name: it must be", "such as name = \"My Login\""],
    ),
    (
        "[[mini_program]]\nappid = \"wx2\"\nsecret = \"x\"",
        6,
        &[
            "client shop: several Mini Programs are configured",
            "mini_program = \"wx1\"",
        ],
    ),
];

#[test]
fn what_a_table_means_wrongly_is_told_with_its_line_and_an_example() {
    for (table, line, words) in TABLES {
        let dir = tempfile::tempdir().unwrap();
        let mut command = quiet(&dir, &format!("{SITE}{table}\n"));
        let told = refused(stopped(command.envs([SIMULATED, API_BASE])));
        let line_of = format!(
            "SCANLOGIN_CONFIG: {}/scanlogin.toml: line {line}: ",
            dir.path().display()
        );
        assert!(told.contains(&line_of), "{table}: {told}");
        for word in *words {
            assert!(told.contains(word), "{table}: {word:?} is not in {told}");
        }
    }
}

#[test]
fn what_a_setting_of_the_file_says_wrongly_is_told_with_its_line() {
    for (file, line, words) in [
        ("\nheartbeat = 0", 2, &["SCANLOGIN_HEARTBEAT", "from 1 to 300"][..]),
        (
            "heartbeat = 1\nlisten = \"x\"",
            2,
            &["SCANLOGIN_LISTEN", "\"x\"", ADDRESS],
        ),
        ("\n\nscene_tll = 3", 3, &["did you mean \"scene_ttl\"?"]),
        (
            "log = \"json\"\nscene_ttl = 2026-08-31",
            2,
            &["\"scene_ttl\" must be a single value"],
        ),
        (
            "client_redirect_uris = [\"https://blog.example/*\"]",
            1,
            &["SCANLOGIN_CLIENT_REDIRECT_URIS", "matched exactly"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        // Another value in its place makes the file's no better.
        let told = refused(stopped(quiet(&dir, file).env("SCANLOGIN_HEARTBEAT", "15")));
        let line_of = format!(
            "SCANLOGIN_CONFIG: {}/scanlogin.toml: line {line}: ",
            dir.path().display()
        );
        assert!(told.contains(&line_of), "{file}: {told}");
        for word in words {
            assert!(told.contains(word), "{file}: {word:?} is not in {told}");
        }
    }
}
