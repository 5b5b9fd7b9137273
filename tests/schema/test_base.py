from tinyllm_ray.schema.base import counted


def test_one_is_singular_and_every_other_number_plural():
    assert [counted(n, "trial") for n in (0, 1, 2, 1200)] == ["0 trials", "1 trial", "2 trials", "1,200 trials"]
