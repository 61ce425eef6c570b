"""Model cards: rendered from measured results and nothing else; a number without its origin is a fault.

``material`` holds what a card is made of and finds its faults, ``rendering`` writes it, with the plots beside it.
"""
