from tinyllm_ray.tasks.words import script, words


def test_words_are_parted_by_spaces_and_by_character_where_a_script_has_none() -> None:
    assert words("Cork floats, 2 cm up.") == ["Cork", "floats,", "2", "cm", "up."]
    assert words("软木 floats") == ["软", "木", "floats"]
    assert words("한국어 단어") == ["한국어", "단어"]
    assert words("") == []


def test_scripts_that_are_written_together_are_one() -> None:
    assert {script(letter) for letter in "水かカ한"} == {"EAST ASIAN"}
    assert (script("я"), script("ب"), script("a")) == ("CYRILLIC", "ARABIC", "LATIN")
