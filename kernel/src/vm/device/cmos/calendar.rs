//! Seconds since 1970 and the calendar's fields (proleptic Gregorian, UTC).

const DAY: i64 = 86_400;

/// A moment as the clock's registers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vm) struct Calendar {
    pub(in crate::vm) year: u16,
    /// 1 to 12.
    pub(in crate::vm) month: u8,
    /// 1 to 31.
    pub(in crate::vm) day: u8,
    pub(in crate::vm) hour: u8,
    pub(in crate::vm) minute: u8,
    pub(in crate::vm) second: u8,
}

impl Calendar {
    /// The fields of a moment; moments outside the years 0 to 9999 show the nearest of these.
    pub(in crate::vm) fn from_seconds(seconds: i64) -> Self {
        let seconds = seconds.clamp(Self::FIRST, Self::LAST);
        let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years that begin in March put the leap day last; 400 of them have 146097 days.
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self {
            year: (era * 400 + year_of_era + carry) as u16,
            month: month as u8,
            day: day as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds since 1970. Fields out of their range (a guest may write any) carry over.
    pub(in crate::vm) fn to_seconds(self) -> i64 {
        let months = i64::from(self.year) * 12 + i64::from(self.month) - 1;
        // Counted from March, as above.
        let from_march = months - 2;
        let (year, month) = (from_march.div_euclid(12), from_march.rem_euclid(12));
        let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
            + year.div_euclid(400)
            + (153 * month + 2) / 5
            + i64::from(self.day)
            - 1
            - 719_468;
        days * DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }

    /// 1 (Sunday) to 7.
    pub(in crate::vm) fn weekday(self) -> u8 {
        ((self.to_seconds().div_euclid(DAY) + 4).rem_euclid(7) + 1) as u8
    }

    /// 0000-01-01 and 9999-12-31T23:59:59.
    const FIRST: i64 = -62_167_219_200;
    const LAST: i64 = 253_402_300_799;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments() {
        let shown = |seconds| {
            let c = Calendar::from_seconds(seconds);
            format!(
                "{}-{:02}-{:02} {:02}:{:02}:{:02} {}",
                c.year,
                c.month,
                c.day,
                c.hour,
                c.minute,
                c.second,
                c.weekday()
            )
        };
        assert_eq!(shown(0), "1970-01-01 00:00:00 5");
        assert_eq!(shown(951_782_400), "2000-02-29 00:00:00 3");
        assert_eq!(shown(1_767_225_599), "2025-12-31 23:59:59 4");
        assert_eq!(shown(i64::MAX), "9999-12-31 23:59:59 6");
        assert_eq!(shown(i64::MIN), "0-01-01 00:00:00 7");
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in Calendar::FIRST..=Calendar::LAST) {
            prop_assert_eq!(Calendar::from_seconds(seconds).to_seconds(), seconds);
        }

        #[test]
        fn any_fields_have_a_moment(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) {
            Calendar { year, month, day, hour, minute, second }.to_seconds();
        }
    }
}
