from tinyllm_ray.redact import redact, redact_text


def test_values_of_keys_that_name_a_secret_are_blanked():
    given = {"hf_token": "x", "API-KEY": "y", "env": {"AWS_SECRET_ACCESS_KEY": "z"}, "keys": [{"password": "p"}]}
    blank = {
        "hf_token": "***",
        "API-KEY": "***",
        "env": {"AWS_SECRET_ACCESS_KEY": "***"},
        "keys": [{"password": "***"}],
    }
    assert redact(given) == blank


def test_names_and_counts_that_only_look_like_secrets_stay():
    given = {
        "api_key_env": "OPENAI_API_KEY",
        "max_tokens": 5,
        "tokenizer": "t5",
        "text": "the secret of a good rationale",
    }
    assert redact(given) == given


def test_credentials_in_addresses_commands_and_headers_are_blanked():
    assert redact_text("http://me:pw@host/x") == "http://***@host/x"
    assert redact_text("s3://b/x?X-Amz-Signature=abc&v=1") == "s3://b/x?X-Amz-Signature=***&v=1"
    assert redact_text("teachers.a.engine_kwargs.hf_token=abcdef seeds=[0]").endswith("hf_token=*** seeds=[0]")
    assert redact_text("Authorization: Bearer abc.def") == "Authorization: ***"
    assert redact_text("hf_" + "a" * 30) == "***"


def test_a_secret_of_the_environment_is_blanked_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    assert redact(["x correct horse y"]) == ["x *** y"]
