"""The points of joint query–key clouds: what they are, how they are drawn, found, lassoed and summed up. No Bokeh."""
