"""wechatpy as its users have it, pointed at another server: many calls from many threads, by one client.

client.py TOKEN_BASE_URL API_BASE_URL APPID SECRET THREADS CALLS

Prints a line after each call, and at the end what came of all of them, as JSON. A call that fails is no failure of this
program: whoever runs it judges.
"""

import collections
import io
import json
import sys
import threading
import time
import warnings

import requests

# Of wechatpy's own, in its docstrings.
warnings.filterwarnings("ignore")

from wechatpy import WeChatClient

PICTURE = bytes(range(256)) * 40


class Session(requests.Session):
    """In place of wechatpy's own: some of its modules have WeChat's address written out."""

    def __init__(self, token_base_url, api_base_url):
        super().__init__()
        self.base_urls = token_base_url, api_base_url
        self.token_requests = 0

    def request(self, method, url, **kwargs):
        is_token_request = url.endswith("/cgi-bin/token")
        self.token_requests += is_token_request
        base_url = self.base_urls[0 if is_token_request else 1]
        url = url.replace("https://api.weixin.qq.com", base_url)
        return super().request(method, url, **kwargs)


def main():
    token_base_url, api_base_url, appid, secret, threads, calls = sys.argv[1:]
    client = WeChatClient(appid, secret, timeout=30)
    client._http = session = Session(token_base_url, api_base_url)
    results = collections.Counter()
    sent = []
    lock = threading.Lock()

    def call(number):
        if number % 10 == 0:
            assert client.media.upload("image", ("a.jpg", io.BytesIO(PICTURE)))["media_id"]
            return
        if number % 10 == 4:
            client.wxa.release()
            return
        if number % 2:
            text = f"message {number}"
            client.message.send_text("OPENID1", text)
            return text
        assert client.user.get_followers()["total"] == 2

    def work(numbers):
        for number in numbers:
            text = None
            try:
                text = call(number)
                result = "well"
            except Exception as error:
                result = f"{type(error).__name__} {getattr(error, 'errcode', '')}".strip()
            with lock:
                results[result] += 1
                if text:
                    sent.append(text)
                print(".", flush=True)
            # So that it takes a moment, in which something can happen.
            time.sleep(0.01)

    numbers = range(int(calls))
    workers = [threading.Thread(target=work, args=(numbers[n :: int(threads)],)) for n in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({"results": results, "token_requests": session.token_requests, "sent": sent}))


main()
