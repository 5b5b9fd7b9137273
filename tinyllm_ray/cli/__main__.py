from tinyllm_ray.cli import main

main()
