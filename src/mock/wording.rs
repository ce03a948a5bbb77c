//! Errors as WeChat and WeCom write them.

use super::reply::unix_time;

/// WeChat's: the errmsg ends with the id by which its support finds the request.
pub(super) fn error_text(errcode: i64) -> String {
    format!(
        r#"{{"errcode":{errcode},"errmsg":"{} rid: {}"}}"#,
        wording(errcode),
        rid()
    )
}

/// WeCom's: with a hint and the caller's address.
pub(super) fn wecom_error_text(errcode: i64) -> String {
    format!(
        r#"{{"errcode":{errcode},"errmsg":"{}, hint: [{}_{}_{:032x}], from ip: 127.0.0.1, more info at https://open.work.weixin.qq.com/devtool/query?e={errcode}"}}"#,
        wecom_wording(errcode),
        unix_time(),
        fastrand::u8(1..),
        fastrand::u128(..),
    )
}

/// From the official page "Global return codes".
fn wording(errcode: i64) -> &'static str {
    match errcode {
        -1 => "system error",
        0 => "ok",
        // It has gone on so since the end of 2023.
        40001 => {
            "invalid credential, access_token is invalid or not latest, could get access_token by \
             getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"
        }
        40002 => "invalid grant_type",
        40003 => "invalid openid",
        40004 => "invalid media type",
        40008 => "invalid message type",
        40013 => "invalid appid",
        40014 => "invalid access_token",
        40016 => "invalid button size",
        40023 => "invalid sub button size",
        // In the place of WeChat's own hint, for whoever reads why a test fails.
        40066 => "invalid url hint: [MockWechat knows no such path: see MockWechat::reply_to]",
        40125 => "invalid appsecret",
        40164 => "invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist",
        40243 => "AppSecret has been frozen",
        41001 => "access_token missing",
        41002 => "appid missing",
        41004 => "appsecret missing",
        41005 => "media data missing",
        42001 => "access_token expired",
        43001 => "require GET method",
        43002 => "require POST method",
        44001 => "empty media data",
        44002 => "empty post data",
        45002 => "content size out of limit",
        45009 => "reach max api daily quota limit",
        45011 => "api minute-quota reach limit, must slower, retry next minute",
        46003 => "menu no exist",
        47001 => "data format error",
        48001 => "api unauthorized",
        50002 => "user limited",
        _ => "error",
    }
}

fn wecom_wording(errcode: i64) -> &'static str {
    match errcode {
        40001 => "invalid credential",
        40013 => "invalid corpid",
        41002 => "corpid missing",
        41004 => "corpsecret missing",
        45009 => "api freq out of limit",
        60020 => "not allow to access from your ip",
        _ => wording(errcode),
    }
}

/// The time and two numbers, in hex.
fn rid() -> String {
    format!(
        "{:08x}-{:08x}-{:08x}",
        unix_time(),
        fastrand::u32(..),
        fastrand::u32(..)
    )
}
