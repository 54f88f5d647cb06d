"""A gateway reduced to its recorder, to be killed: reads a descriptor into the recording of one session.

`python -m tests.support.recording_child DIRECTORY FD` says `ready` once it reads, and ends at end of file.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.recording_rig import recorder_of, recordings_in


async def main(directory: Path, terminal_fd: int) -> None:
    recordings = recordings_in(directory, segment_bytes=128 * 1024)
    recorder = recorder_of(recordings)
    is_over = asyncio.Event()

    def readable() -> None:
        try:
            if not recorder.read_from(terminal_fd, 65536):
                is_over.set()
        except BlockingIOError:
            return
        except OSError:  # EIO: a terminal whose last program ended
            is_over.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(terminal_fd, readable)
    print("ready", flush=True)
    await is_over.wait()
    loop.remove_reader(terminal_fd)
    await recorder.close(is_final=True)
    await recordings.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
