import logging

import pytest

from tinyllm_ray import redact as module
from tinyllm_ray.redact import RedactingFilter, holds_credentials, is_secret_name, keep_secret, redact, redact_text


def test_values_of_keys_that_name_a_secret_are_blanked():
    given = {"hf_token": "x", "API-KEY": "y", "env": {"AWS_SECRET_ACCESS_KEY": "z"}, "keys": [{"password": "p"}]}
    blank = {
        "hf_token": "***",
        "API-KEY": "***",
        "env": {"AWS_SECRET_ACCESS_KEY": "***"},
        "keys": [{"password": "***"}],
    }
    assert redact(given) == blank
    assert redact({"auth": {"user": ["a", {"b": "c"}], "retries": 3}}) == {
        "auth": {"user": ["***", {"b": "***"}], "retries": 3}
    }


@pytest.mark.parametrize(
    "name",
    [
        "hf_token",
        "apiKey",
        "X-Api-Key",
        "dbPwd",
        "HFToken",
        "AWS_SECRET_ACCESS_KEY",
        "awsAccessKeyId",
        "authToken",
        "access_token",
        "clientSecret",
        "MY_PASSWORD",
        "accountKey",
        "sig",
        "X-Amz-Signature",
        "userAuth",
        "storageKey",
        "password2",
        "api-key",
        "token",
        "AUTH",
        "oauthToken",
        "privateKey",
        "teachers.a.engine_kwargs.hf_token",
        "accesstoken",
        "Authorization",
        "secrets",
        "credentials",
        "db_pass",
    ],
)
def test_names_of_secrets_are_known_in_any_case_style(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "api_key_env",
        "max_tokens",
        "tokenizer",
        "pad_token",
        "pad_token_id",
        "stop_token_ids",
        "author",
        "monkey",
        "RAY_AUTH_MODE",
        "tokens",
        "AWS_SHARED_CREDENTIALS_FILE",
        "batch_tokens",
        "max_new_tokens",
        "eos_token",
        "keyboard",
        "label_prefix",
        "task_prefix",
        "passed",
        "compass",
        "XAUTHORITY",
        "SSH_AUTH_SOCK",
        "skip_special_tokens",
        "KeyError",
        "train/loss",
    ],
)
def test_names_that_only_look_like_secrets_are_not_taken_for_them(name):
    assert not is_secret_name(name)


def test_values_that_only_look_like_secrets_stay():
    given = {
        "api_key_env": "OPENAI_API_KEY",
        "max_tokens": 5,
        "tokenizer": "t5",
        "text": "the secret of a good rationale",
        "message": "KeyError: 'eval/accuracy'; unknown key: foo; 12:30; https://host/a?b=c#d",
        "password": None,
        "abfs": "abfs://container@account.dfs.core.windows.net/x",
    }
    assert redact(given) == given


@pytest.mark.parametrize(
    ("given", "blank"),
    [
        ("http://me:pw@host/x", "http://***@host/x"),
        ("s3://b/x?X-Amz-Signature=abc&v=1", "s3://b/x?X-Amz-Signature=***&v=1"),
        ("https://a.blob.core.windows.net/c?sv=2024&sig=aB%3D&se=1", "https://a.blob.core.windows.net/c?sv=2024&sig=***&se=1"),
        ("abfs://c:key@account/x", "abfs://***@account/x"),
        ("run a.engine_kwargs.hf_token=abcdef seeds=[0]", "run a.engine_kwargs.hf_token=*** seeds=[0]"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("got bearer abc123def", "got bearer ***"),
        ("AccountName=a;AccountKey=abc/d==;x", "AccountName=a;AccountKey=***;x"),
        ('{"apiKey": "abc", "n": 1}', '{"apiKey": "***", "n": 1}'),
        ("{'dbPassword': 'abc'}", "{'dbPassword': '***'}"),
        ("hf_" + "a" * 30, "***"),
        ("x sk-proj-" + "a1" * 12 + " y", "x *** y"),
        ("AKIA" + "A" * 16, "***"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abc", "***"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nb", "a\n***\nb"),
    ],
)  # fmt: skip
def test_credentials_in_addresses_commands_and_headers_are_blanked(given, blank):
    assert redact_text(given) == blank


def test_a_secret_of_the_environment_is_blanked_wherever_it_stands_and_however_it_is_written(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", 'correct "horse"')
    assert redact(["x correct \"horse\" y", "correct%20%22horse%22", "correct+%22horse%22", 'correct \\"horse\\"']) == [
        "x *** y",
        "***",
        "***",
        "***",
    ]  # fmt: skip


def test_a_variable_that_the_experiment_names_is_secret_whatever_its_name(monkeypatch):
    monkeypatch.setenv("MY_SERVER", "plain-looking-value")
    monkeypatch.setenv(module.NAMED, "")
    assert redact_text("x plain-looking-value y") == "x plain-looking-value y"
    keep_secret(variables=["MY_SERVER"])
    assert redact_text("x plain-looking-value y") == "x *** y"


def test_a_working_folder_is_no_password(monkeypatch):
    monkeypatch.setenv("PWD", "/home/me/project")
    assert redact_text("/home/me/project/outputs") == "/home/me/project/outputs"


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("http://me:pw@host/v1", True),
        ("https://token@host/x", True),
        ("https://host/x?sig=abc", True),
        ("https://host/x?a=1&X-Amz-Security-Token=abc", True),
        ("s3://key:secret@bucket/x", True),
        ("abfs://container:key@account/x", True),
        ("https://host/x?sig=${DATA_SIGNATURE}", False),
        ("abfs://container@account.dfs.core.windows.net/x", False),
        ("https://host/x?max_tokens=5&page=2", False),
        ("s3://bucket/folder@2/x", False),
        ("me@host", False),
    ],
)
def test_addresses_with_credentials_are_told_from_others(address, holds):
    assert holds_credentials(address) is holds


def test_a_log_holds_no_secret(caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "very secret value")
    caplog.handler.addFilter(RedactingFilter())
    logging.getLogger("any").warning("args: %s and %d", "very secret value", 3)
    assert caplog.messages == ["args: *** and 3"]
