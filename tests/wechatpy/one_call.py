"""wechatpy sends one message; what it is told, and which paths it asked for, as JSON.

one_call.py BASE_URL APPID SECRET
"""

import json
import sys
import warnings
from urllib.parse import urlsplit

import requests

# Of wechatpy's own, in its docstrings.
warnings.filterwarnings("ignore")

from wechatpy import WeChatClient
from wechatpy.exceptions import WeChatException


class Session(requests.Session):
    """In place of wechatpy's own: some of its modules have WeChat's address written out."""

    def __init__(self, base_url):
        super().__init__()
        self.base_url = base_url
        self.asked = []

    def request(self, method, url, **kwargs):
        url = url.replace("https://api.weixin.qq.com", self.base_url)
        self.asked.append(urlsplit(url).path)
        return super().request(method, url, **kwargs)


base_url, appid, secret = sys.argv[1:]
client = WeChatClient(appid, secret, timeout=30)
client._http = session = Session(base_url)
told = {"errcode": 0, "errmsg": "ok"}
try:
    client.message.send_text("OPENID1", "hello")
except WeChatException as error:
    told = {"errcode": error.errcode, "errmsg": error.errmsg}
except requests.RequestException as error:
    told = {"errcode": None, "errmsg": type(error).__name__}
print(json.dumps({**told, "asked": session.asked}))
