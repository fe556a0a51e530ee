"""Try a list of destinations and print those that answered: reach.py tcp:10.0.0.1:22 udp:[fe80::1%eth0]:53 ...

With `--for SECONDS` the list is tried over and over, and each answer is printed with the time it came.
"""

import select
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 1.5


def answers(word, timeout):
    kind, rest = word.split(":", 1)
    host, port = rest.rsplit(":", 1)
    info = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)[0]
    with socket.socket(info[0], info[1]) as client:
        client.settimeout(timeout)
        try:
            client.connect(info[4])
            if kind == "tcp":
                return True
            client.send(b"hello")
            return bool(select.select([client], [], [], timeout)[0] and client.recv(100))
        except OSError:
            return False


def main():
    words = sys.argv[1:]
    if words[0] != "--for":
        with ThreadPoolExecutor(32) as pool:
            for word, ok in zip(words, pool.map(lambda w: answers(w, TIMEOUT), words), strict=True):
                if ok:
                    print(word)
        return
    end, words = time.monotonic() + float(words[1]), words[2:]

    def loop(word):
        while time.monotonic() < end:
            if answers(word, 0.3):
                print(f"{time.time():.2f} {word}", flush=True)
            time.sleep(0.02)

    with ThreadPoolExecutor(len(words)) as pool:
        list(pool.map(loop, words))


main()
