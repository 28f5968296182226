"""Every currency that can be charged, and the rules that a charge in it must keep.

The figures are Stripe's, from docs.stripe.com/currencies: they are not ISO 4217 throughout. The
simulated provider keeps them too, so that what works with it works with the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Currency(NamedTuple):
    """How one currency is counted and charged; amounts are in minor units."""

    exponent: int
    """Decimals of an amount as people write it."""
    step: int
    """A charge must be a multiple of this."""
    smallest: int
    largest: int


_ZERO = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_THREE = "BHD JOD KWD OMR TND"
_TWO = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD "
    "CAD CDF CHF CNY COP CRC CVE CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD "
    "HKD HNL HTG HUF IDR ILS INR ISK JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL MKD MMK "
    "MNT MOP MRO MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR "
    "RON RSD RUB SAR SBD SCR SEK SGD SHP SLE SOS SRD STD STN SZL THB TJS TOP TRY TTD TWD TZS UAH "
    "UGX USD UYU UZS WST XCD XCG YER ZAR ZMW"
)

_STEPS: Mapping[str, int] = {
    # The last of three decimals must be 0.
    **dict.fromkeys(_THREE.split(), 10),
    # Counted in hundredths for old clients' sake, but there are no hundredths. Of HUF and TWD that
    # is so for payouts only: their hundredths can be charged.
    **dict.fromkeys("ISK UGX".split(), 100),
}

_SMALLEST: Mapping[str, int] = {
    **dict.fromkeys(
        "ARS AUD BRL CAD CHF COP EUR IDR ILS INR JPY KRW NZD PHP RUB SGD USD ZAR".split(), 50
    ),
    **dict.fromkeys("AED MYR PLN RON".split(), 200),
    **dict.fromkeys("NOK SEK".split(), 300),
    **dict.fromkeys("MXN THB".split(), 1000),
    "BGN": 100,
    "CZK": 1500,
    "DKK": 250,
    "GBP": 30,
    "HKD": 400,
    "HUF": 17500,
}
"""Another currency's depends on what the account is paid out in: the provider itself says no."""

_LARGEST: Mapping[str, int] = {
    "COP": 9_999_999_999,
    "HUF": 9_999_999_999,
    "IDR": 999_999_999_999,
    "INR": 999_999_999,
    "JPY": 9_999_999_999,
    "LBP": 99_999_999_999,
}
"""By the number of digits that are taken; eight unless listed."""

_EIGHT_DIGITS = 99_999_999


def _currency(code: str, exponent: int) -> Currency:
    step = _STEPS.get(code, 1)
    return Currency(exponent, step, _SMALLEST.get(code, step), _LARGEST.get(code, _EIGHT_DIGITS))


CURRENCIES: Mapping[str, Currency] = {
    code: _currency(code, exponent)
    for exponent, codes in ((0, _ZERO), (2, _TWO), (3, _THREE))
    for code in codes.split()
}
"""By ISO 4217 code in upper case."""
