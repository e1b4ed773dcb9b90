"""What torch allocates on a CPU while something runs: exact, and free of what the C library does with it."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def allocated(run: Callable[[], object]) -> int:
    """Return the most bytes that tensors made during a call took at one time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = run()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    del kept
    return most
